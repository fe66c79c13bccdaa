"""Optimizer, schedule and clipping: what is trained, how fast, and how far at most."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ppssl.utils.errors import UserError

__all__ = [
    "OptimizerName",
    "clip_gradient_norm",
    "default_base_lr",
    "delay_groups",
    "global_batch_size",
    "loss_scale",
    "make_optimizer",
    "optimizer_and_schedule",
    "pretraining_optimizer",
    "scale_learning_rate",
    "warmup_cosine",
    "weight_decay_groups",
]

OptimizerName = Literal["sgd", "adamw", "lars"]

_BASE_LR: dict[OptimizerName, tuple[float, float]] = {
    "sgd": (0.03, 0.03),
    "lars": (0.15, 0.15),
    "adamw": (2e-3, 6e-5),
}
_TIMM_NAMES = {"sgd": "momentum"}  # timm's "sgd" has Nesterov's momentum


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of all parameters that require a gradient, by timm.

    Norms and biases have no weight decay, nor has what a timm model in it exempts (``no_weight_decay()``: position
    embeddings and class tokens). There are the same groups for each value, 0 too, so that a run can be resumed with
    another one.
    """
    exempt = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, part in model.named_modules()
        for name in getattr(part, "no_weight_decay", set)()
    }
    groups = param_groups_weight_decay(model, 1.0, no_weight_decay_list=exempt)
    return [group | {"weight_decay": group["weight_decay"] * weight_decay} for group in groups]


def delay_groups(
    groups: list[dict[str, Any]], module: nn.Module, start: float
) -> list[dict[str, Any]]:
    """Split parameter groups so that a module's parameters are trained from a later step on (:func:`warmup_cosine`).

    Args:
        groups: Parameter groups.
        module: The module that waits.
        start: Fraction of the steps until its training begins; 0: the groups are returned unchanged.
    """
    if start == 0:
        return groups
    waiting = set(module.parameters())
    parts = []
    for group in groups:
        parts.append(
            group | {"params": [p for p in group["params"] if p in waiting], "start": start}
        )
        parts.append(group | {"params": [p for p in group["params"] if p not in waiting]})
    return [part for part in parts if part["params"]]


def default_base_lr(optimizer: OptimizerName, *, pretrained: bool) -> float:
    """Learning rate for a batch of 128: that of MoCo v2 for SGD, of SimCLR for LARS, for AdamW measured here.

    AdamW moves every weight by about the learning rate in each step. From pretrained weights a contrastive loss alone
    makes the encoder worse at higher rates than this; beside an anchor or a teacher higher ones are better
    (experiments/RESULTS.md).
    """
    return _BASE_LR[optimizer][pretrained]


def global_batch_size(source: Any, batches: int) -> int | None:
    """Images of several batches of a data module or data loader; ``None`` if it has no ``batch_size``."""
    size = getattr(source, "batch_size", None)
    return None if size is None else size * batches


def scale_learning_rate(lr: float | None, base_lr: float, source: Any, devices: int) -> float:
    """Learning rate of a run: ``lr`` if it is given, else ``base_lr`` times the global batch size over 128.

    Args:
        lr: Learning rate, or ``None``.
        base_lr: Learning rate for a global batch of 128.
        source: Data module or data loader, whose ``batch_size`` is the per-device batch size.
        devices: Number of per-device batches in an optimizer step.

    Raises:
        UserError: The rate follows the batch size, and ``source`` has none.
    """
    if lr is not None:
        return lr
    batch = global_batch_size(source, devices)
    if batch is None:
        raise UserError(
            f"The learning rate follows the batch size, and `{type(source).__name__}` has no `batch_size`: set that "
            "attribute, or the rate itself (`lr`)."
        )
    return base_lr * batch / 128


def make_optimizer(
    groups: list[dict[str, Any]],
    name: OptimizerName,
    *,
    lr: float,
    sgd_momentum: float = 0.9,
    fused: bool = False,
) -> Optimizer:
    """Create an optimizer by timm's factory.

    LARS adapts the rate of the parameters that have weight decay, as in SimCLR and BYOL: norms and biases keep the rate
    itself. If none has weight decay, it adapts that of matrices and kernels.

    Args:
        groups: Parameter groups.
        name: The optimizer.
        lr: Learning rate.
        sgd_momentum: Momentum of ``sgd`` and ``lars``.
        fused: One kernel for all parameters, where the optimizer has one (``sgd``, ``adamw``). Not with the loss
            scaling of fp16, beside which Lightning cannot clip gradients then.
    """
    options: dict[str, Any] = {"fused": True} if fused and name != "lars" else {}
    timm_name = _TIMM_NAMES.get(name, name)
    if name == "lars" and not any(group.get("weight_decay") for group in groups):
        groups = _adapt_matrices(groups)
    return create_optimizer_v2(groups, timm_name, lr=lr, momentum=sgd_momentum, **options)


def _adapt_matrices(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split parameter groups without weight decay, which timm's LARS leaves at the rate of SGD otherwise."""
    parts = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        others = [p for p in group["params"] if p.ndim <= 1]
        parts.append(group | {"params": matrices, "always_adapt": True})
        parts.append(group | {"params": others})
    return [part for part in parts if part["params"]]


def warmup_cosine(optimizer: Optimizer, *, warmup_fraction: float, steps: int) -> LambdaLR:
    """Learning-rate schedule: a linear warm-up, then a cosine decay to 0; stepped after each optimizer step.

    Args:
        optimizer: Parameter groups may have an entry ``start``, a fraction of the steps: their rate is 0 until then,
            and the warm-up follows.
        warmup_fraction: Fraction of the steps in which the rate rises.
        steps: Number of optimizer steps.
    """
    warmup = round(warmup_fraction * steps)
    factors: list[Callable[[int], float]] = [
        partial(_factor, start=round(group.get("start", 0.0) * steps), warmup=warmup, steps=steps)
        for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, factors)


def optimizer_and_schedule(
    model: Any, groups: list[dict[str, Any]], lr: float, steps: int
) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: :func:`make_optimizer` and :func:`warmup_cosine`, by step.

    Args:
        model: A model with its Trainer and the settings ``optimizer``, ``sgd_momentum`` and ``warmup_fraction``.
        groups: Parameter groups.
        lr: Learning rate of groups without one.
        steps: Number of optimizer steps.
    """
    optimizer = make_optimizer(
        groups,
        model.optimizer,
        lr=lr,
        sgd_momentum=model.sgd_momentum,
        fused=model.trainer.scaler is None,
    )
    schedule = warmup_cosine(optimizer, warmup_fraction=model.warmup_fraction, steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretraining_optimizer(model: Any, source: Any, steps: int) -> dict[str, Any]:
    """:func:`optimizer_and_schedule` of all trained parameters, of which the encoder's may start later.

    The learning rate is that of :func:`scale_learning_rate`; one line says it.

    Args:
        model: A model with its Trainer, an ``encoder``, and the settings of :class:`ppssl.PPSSL`.
        source: Data module or data loader.
        steps: Number of optimizer steps.

    Raises:
        UserError: The rate follows the batch size, and ``source`` has none.
    """
    batches = model.trainer.world_size * model.trainer.accumulate_grad_batches
    lr = scale_learning_rate(model.lr, model.base_lr, source, batches)
    batch = global_batch_size(source, batches)
    size = f"global batch {batch}, " if batch else ""
    rank_zero_info(f"Learning rate {lr:.3g}, {size}{steps} steps.")
    groups = weight_decay_groups(model, model.weight_decay)
    groups = delay_groups(groups, model.encoder, model.encoder_start)
    return optimizer_and_schedule(model, groups, lr, steps)


def _factor(step: int, *, start: int, warmup: int, steps: int) -> float:
    if step < start:
        return 0.0
    if step < start + warmup:
        return (step - start + 1) / warmup
    done = (step - start - warmup) / max(1, steps - start - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip_gradient_norm(
    optimizer: Optimizer, max_norm: float, *, separate: Iterable[nn.Module] = ()
) -> None:
    """Scale all gradients so that their common norm is ``max_norm`` at most, as ``torch.nn.utils.clip_grad_norm_``.

    The squares of the norms of the ``separate`` modules are added one by one to that of all other parameters: so a
    plugin whose gradients are all 0 does not change the last bit of the norm.
    """
    number_of = {p: i for i, module in enumerate(separate, 1) for p in module.parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients: dict[int, list[Tensor]] = {}
    for p in parameters:
        if p.grad is not None:
            gradients.setdefault(number_of.get(p, 0), []).append(p.grad)
    squares = torch.zeros((), device=parameters[0].device)
    for part in gradients.values():
        squares = squares + get_total_norm(part).float().square()
    clip_grads_with_norm_(parameters, max_norm, squares.sqrt())


def loss_scale(scaler: torch.amp.GradScaler | None) -> float:
    """Factor by which fp16 training multiplies the loss; 0 without a scaler. It falls in steps that torch skips."""
    return 0.0 if scaler is None else scaler.get_scale()
