"""Optimizer, schedule and clipping: what is trained, how fast, and how far at most."""

import math
from functools import partial
from typing import Literal

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["clip_gradient_norm", "loss_scale", "make_optimizer", "warmup_cosine"]


def make_optimizer(
    model: nn.Module,
    name: Literal["sgd", "adamw"],
    *,
    lr: float,
    weight_decay: float,
    sgd_momentum: float = 0.9,
) -> Optimizer:
    """SGD or AdamW over all parameters that require a gradient; norms and biases without weight decay."""
    groups = param_groups_weight_decay(model, weight_decay)
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=sgd_momentum)
    return AdamW(groups, lr=lr)


def warmup_cosine(optimizer: Optimizer, *, warmup_fraction: float, steps: int) -> LambdaLR:
    """A linear rise over the first part of the steps, then half a cosine down to 0; stepped each step."""
    warmup = round(warmup_fraction * steps)
    return LambdaLR(optimizer, partial(_factor, warmup=warmup, steps=steps))


def _factor(step: int, *, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip_gradient_norm(optimizer: Optimizer, max_norm: float) -> None:
    """Scale all gradients so that their common norm is ``max_norm`` at most.

    The norm is summed in float64: the zero gradients of a plugin of weight 0 do not change its last bit, as they may
    where ``torch.nn.utils.clip_grad_norm_`` sums in float32.
    """
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients])
    scale = (max_norm / (norms.double().norm().float() + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)


def loss_scale(scaler: torch.amp.GradScaler | None) -> float:
    """The scale of fp16's loss, 0 without one. That a step has lowered it is how torch says that it was skipped."""
    return 0.0 if scaler is None else scaler.get_scale()
