import math
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppssl.utils.optim import (
    clip_gradient_norm,
    make_optimizer,
    warmup_cosine,
    weight_decay_groups,
)


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    return model


def _decays(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, float]:
    """By name of the parameter."""
    name_of = {p: name for name, p in model.named_parameters()}
    return {name_of[p]: group["weight_decay"] for group in groups for p in group["params"]}


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = _model()
    expected = {
        name: 0.3 if p.ndim > 1 else 0.0 for name, p in model.named_parameters() if p.requires_grad
    }
    assert _decays(model, weight_decay_groups(model, 0.3)) == expected


def test_position_embeddings_have_no_weight_decay() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
    for model, prefix in ((vit, ""), (nn.ModuleDict({"inner": vit}), "inner.")):
        decays = _decays(model, weight_decay_groups(model, 0.3))
        exempt = {name for name, decay in decays.items() if decay == 0 and ".bias" not in name}
        assert {f"{prefix}pos_embed", f"{prefix}cls_token"} <= exempt
        assert decays[f"{prefix}blocks.0.mlp.fc1.weight"] == 0.3


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", partial(torch.optim.SGD, momentum=0.8)),
        ("adamw", torch.optim.AdamW),
        ("lars", partial(timm.optim.Lars, momentum=0.8)),
    ],
)
def test_optimizers_are_torchs_and_timms(name: Any, reference: Any) -> None:
    models = []
    for make in (partial(make_optimizer, name=name, sgd_momentum=0.8), reference):
        models.append(_model())
        optimizer = make(weight_decay_groups(models[-1], 0.3), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            models[-1](torch.arange(15.0).reshape(5, 3)).square().sum().backward()
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def _lars_loops(
    weights: dict[str, torch.Tensor],
    gradients: list[dict[str, torch.Tensor]],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """LARS in float64, in place (You, Gitman and Ginsburg, arXiv 1708.03888, algorithm 1, eta = 0.001).

    Norms and biases have neither trust ratio nor weight decay (SimCLR, arXiv 2002.05709, appendix B).
    """
    velocity = {name: torch.zeros_like(w) for name, w in weights.items()}
    for step in gradients:
        for name, w in weights.items():
            g, local = step[name].double(), 1.0
            if w.ndim > 1:
                w_norm, g_norm = math.sqrt(float((w * w).sum())), math.sqrt(float((g * g).sum()))
                local = 0.001 * w_norm / (g_norm + weight_decay * w_norm)
                g = g + weight_decay * w
            velocity[name] = momentum * velocity[name] + lr * local * g
            w -= velocity[name]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 0.3])
def test_lars_is_the_papers_and_lightlys(weight_decay: float) -> None:
    from lightly.utils.lars import LARS

    ours, theirs = _model(), _model()
    weights = {n: p.detach().double() for n, p in ours.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(0)
    gradients = [
        {name: torch.randn(w.shape, generator=generator) for name, w in weights.items()}
        for _ in range(4)
    ]
    groups = weight_decay_groups(ours, weight_decay)
    optimizers = [
        (ours, make_optimizer(groups, "lars", lr=0.7, sgd_momentum=0.8)),
        (theirs, LARS(weight_decay_groups(theirs, weight_decay), lr=0.7, momentum=0.8)),
    ]
    for model, optimizer in optimizers:
        for step in gradients:
            for name, p in model.named_parameters():
                p.grad = step[name].clone() if name in step else None
            optimizer.step()
    _lars_loops(weights, gradients, lr=0.7, momentum=0.8, weight_decay=weight_decay)
    found = dict(ours.named_parameters())
    for name, w in weights.items():
        torch.testing.assert_close(found[name].detach().double(), w, atol=1e-6, rtol=1e-5)
        if weight_decay:  # lightly's adapts nothing without weight decay
            torch.testing.assert_close(found[name], dict(theirs.named_parameters())[name])


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
    clip_gradient_norm(torch.optim.SGD(ours.parameters()), max_norm, separate=[ours[2]])
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("seed", range(20))
def test_modules_whose_gradients_are_zero_do_not_change_the_clipping(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(n, generator=generator) for n in (3, 17, 5, 8, 1, 9, 33, 2, 64, 7)]
    results = []
    for before, after in ((0, 0), (1, 0), (0, 3), (2, 7)):
        main = nn.ParameterList([torch.zeros_like(g) for g in gradients[:7]])
        plugin = nn.ParameterList([torch.zeros_like(g) for g in gradients[7:]])
        idle = [nn.ParameterList([torch.zeros(4)] * n) for n in (before, after)]
        parameters = nn.ModuleList([idle[0], main, plugin, idle[1]])
        for p in parameters.parameters():
            p.grad = torch.zeros_like(p)
        for p, g in zip([*main, *plugin], gradients, strict=True):
            p.grad = g.clone()
        optimizer = torch.optim.SGD(parameters.parameters())
        clip_gradient_norm(optimizer, 0.5, separate=[idle[0], plugin, idle[1]])
        results.append([p.grad for p in [*main, *plugin]])
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clipping_of_half_precision_gradients(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.zeros(4, dtype=dtype))
    p.grad = torch.full((4,), 300.0, dtype=dtype)  # the square of its norm is beyond float16
    clip_gradient_norm(torch.optim.SGD([p, nn.Parameter(torch.zeros(1))]), 2.0)
    torch.testing.assert_close(p.grad, torch.ones(4, dtype=dtype))


def test_clipping_without_a_gradient() -> None:
    clip_gradient_norm(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), 1.0)


def test_clipping_uses_no_double_precision() -> None:
    """Apple's GPUs have none."""
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    with _Dtypes() as seen:
        clip_gradient_norm(torch.optim.SGD([p]), 1.0)
    assert torch.float32 in seen.dtypes
    assert torch.float64 not in seen.dtypes


class _Dtypes(TorchDispatchMode):
    """The data types of what all operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.dtypes |= {t.dtype for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        return result


def test_groups_are_the_same_without_decay() -> None:
    """A run that is resumed with weight decay 0 has the groups that its optimizer's state is of."""
    groups = {decay: weight_decay_groups(_model(), decay) for decay in (0.0, 0.1)}
    sizes = {decay: [len(g["params"]) for g in made] for decay, made in groups.items()}
    assert sizes[0.0] == sizes[0.1]
    assert {group["weight_decay"] for group in groups[0.0]} == {0.0}
    assert [group["weight_decay"] for group in groups[0.1]] == [0.0, 0.1]
