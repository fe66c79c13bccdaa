import math

import pytest
import torch
from torch import nn

from ppssl.utils.optim import clip_gradient_norm, make_optimizer, warmup_cosine


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_have_no_weight_decay(name: str) -> None:
    model = _model()
    optimizer = make_optimizer(model, name, lr=0.1, weight_decay=0.3)  # type: ignore[arg-type]
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    expected = {id(p): 0.3 if p.ndim > 1 else 0.0 for p in model.parameters() if p.requires_grad}
    assert decay == expected


def test_schedule_is_a_ramp_and_half_a_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, warmup_fraction=0.2, steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * i / 16) for i in range(16)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_clipping_equals_torchs(max_norm: float) -> None:
    ours, theirs = _model(), _model()
    for model in (ours, theirs):
        model(torch.arange(15.0).reshape(5, 3)).square().sum().backward()
    clip_gradient_norm(make_optimizer(ours, "sgd", lr=1.0, weight_decay=0.0), max_norm)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_zero_gradients_do_not_change_the_clipping() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(n, generator=generator) for n in (3, 17, 5, 8, 1, 9, 33, 2, 64, 7)]
    results = []
    for extra in (0, 1, 3, 7):
        parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        zeros = [nn.Parameter(torch.zeros(4)) for _ in range(extra)]
        for p in zeros:
            p.grad = torch.zeros(4)
        clip_gradient_norm(torch.optim.SGD([*parameters, *zeros], lr=1.0), 0.5)
        results.append([p.grad for p in parameters])
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )
