from typing import Any

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor

from bases import assert_same_gradients, batch_of, make
from ppssl import BYOL
from ppssl.losses.contrastive.momentum import automatic_momentum, rising_momentum
from reference.contrastive import byol_loops


def _branches(encoder: Any, base: Any, batch: Any) -> tuple[Any, Any]:
    """Predictions and targets of both views, of any length."""
    predictions = tuple(base.predictor(base.head(encoder(view))) for view in batch["views"])
    targets = tuple(base.key_head(base.key_encoder(view)) for view in batch["views"])
    return predictions, targets


def _differing(head_norm: Any = "batch") -> tuple[Any, Any]:
    """An encoder and a BYOL whose momentum copies have moved away."""
    encoder, base = make("BYOL", head_norm=head_norm)
    with torch.no_grad():
        for p in [*base.key_encoder.parameters(), *base.key_head.parameters()]:
            p.add_(0.1 * torch.randn_like(p))
    return encoder, base


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
def test_loss_and_gradient_are_the_papers(head_norm: Any) -> None:
    encoder, base = _differing(head_norm)
    trained = [*encoder.parameters(), *base.head.parameters(), *base.predictor.parameters()]
    batch = batch_of([5, 3, 8, 3])
    loss = base(encoder, batch, seed=0).loss
    expected = byol_loops(*_branches(encoder, base, batch))
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(loss, expected, trained)


def test_loss_is_lightlys() -> None:
    encoder, base = _differing()
    batch = batch_of(list(range(6)))
    loss = base(encoder, batch, seed=0).loss.mean()
    (p0, p1), (t0, t1) = _branches(encoder, base, batch)
    criterion = NegativeCosineSimilarity()
    torch.testing.assert_close(loss, 4 + 2 * (criterion(p0, t1) + criterion(p1, t0)))


def test_z_and_key_are_prediction_and_target() -> None:
    encoder, base = _differing()
    batch = batch_of(list(range(6)))
    result = base(encoder, batch, seed=0)
    (p0, _), (_, t1) = _branches(encoder, base, batch)
    normalised: list[Tensor] = [torch.nn.functional.normalize(x) for x in (p0, t1)]
    torch.testing.assert_close(result.z, normalised[0])
    torch.testing.assert_close(result.key, normalised[1])
    similarity = float((result.z.detach() * result.key).sum(dim=1).mean())
    assert float(result.logs["contrastive_similarity"]) == pytest.approx(similarity, abs=1e-6)


@pytest.mark.parametrize(
    ("momentum", "steps", "start"),
    [("auto", 10**6, 0.996), ("auto", 500, automatic_momentum(500)), (0.9, 10**6, 0.9)],
)
def test_momentum_rises_from_its_start(momentum: Any, steps: int, start: float) -> None:
    encoder, base = make("BYOL", momentum=momentum)
    with torch.no_grad():
        for p in [*encoder.parameters(), *base.head.parameters()]:
            p.add_(1.0)
    before = [p.clone() for p in base.key_encoder.parameters()]
    predictor = [p.clone() for p in base.predictor.parameters()]
    base.after_step(encoder, progress=0.25, total_steps=steps)
    m = rising_momentum(start, 0.25)
    for old, key, query in zip(
        before, base.key_encoder.parameters(), encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(key, m * old + (1 - m) * query)
    key, query = base.key_head[0].weight, base.head[0].weight
    torch.testing.assert_close(query - key, torch.full_like(key, m))
    assert all(a.equal(b) for a, b in zip(predictor, base.predictor.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"momentum": 1.5}, r"`momentum` must be in \[0, 1\], got 1.5"),
        ({"hidden_dim": 0}, "`hidden_dim` must be >= 1, got 0"),
        ({"head_norm": "group"}, "`head_norm` must be one of batch, layer, got 'group'"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BYOL(**kwargs)
