from typing import Any

import pytest
import torch
from lightly.loss import NTXentLoss

from bases import assert_same_gradients, batch_of, make
from ppssl import SimCLR
from reference.contrastive import nt_xent_loops


def _projections(encoder: Any, base: Any, batch: Any) -> list[torch.Tensor]:
    return [base.head(encoder(view)) for view in batch["views"]]


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("index", [[0, 1], [5, 3, 8, 1, 2], [4, 4, 1, 2, 4]])
def test_loss_and_gradient_are_the_papers(
    index: list[int], temperature: float, head_norm: Any
) -> None:
    encoder, base = make("SimCLR", temperature=temperature, head_norm=head_norm)
    parameters = [*encoder.parameters(), *base.head.parameters()]
    batch = batch_of(index)
    loss = base(encoder, batch, seed=0).loss
    expected = nt_xent_loops(*_projections(encoder, base, batch), index, temperature)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(loss, expected, parameters)


def test_loss_is_lightlys() -> None:
    encoder, base = make("SimCLR", temperature=0.3)
    batch = batch_of(list(range(7)))
    loss = base(encoder, batch, seed=0).loss.mean()
    expected = NTXentLoss(temperature=0.3)(*_projections(encoder, base, batch))
    torch.testing.assert_close(loss, expected)


def test_accuracy_is_that_of_the_first_view() -> None:
    encoder, base = make("SimCLR")
    batch = batch_of(list(range(6)))
    z, key = (torch.nn.functional.normalize(p) for p in _projections(encoder, base, batch))
    wins = 0
    for i in range(6):
        others = [float(z[i] @ v[j]) for j in range(6) if j != i for v in (z, key)]
        wins += float(z[i] @ key[i]) > max(others)
    logs = base(encoder, batch, seed=0).logs
    assert float(logs["contrastive_accuracy"]) == pytest.approx(wins / 6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be > 0, got 0"),
        ({"dim": 0}, "`dim` must be >= 1, got 0"),
        ({"hidden_dim": 0}, "`hidden_dim` must be >= 1, got 0"),
        ({"head_norm": "group"}, "`head_norm` must be one of batch, layer, got 'group'"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimCLR(**kwargs)
