"""Gradients with respect to inputs under fp16, whose smallest number is 6e-8."""

import torch
from torch import Tensor

__all__ = ["input_gradient"]

SCALE = 2.0**10
"""Large enough for what a pixel changes in a loss, and 64 times below what overflows for a gradient of 1."""


def input_gradient(values: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of the sum of ``values`` with respect to ``inputs``; the graph stays, and no ``.grad`` is touched.

    fp16 rounds gradients below 6e-8 to 0, and what pixels contribute to a loss is often less. Under fp16 the values are
    therefore scaled up for the backward pass, and the gradient is scaled down again in float32. Images whose scaled
    gradient overflows have the unscaled one, and 0 where that overflows as well. Whether any overflows is read by the
    host, as the Trainer's loss scaling reads it in each step.

    Args:
        values: Value of each image, ``(B,)``, with its graph down to ``inputs``.
        inputs: ``(B, ...)``.

    Returns:
        Shape of ``inputs``; under fp16 float32 and always finite, otherwise of the type of ``inputs``.
    """
    if not _in_fp16(values, inputs):
        return _gradient(values, inputs, 1.0)
    scaled = _gradient(values, inputs, SCALE).float() / SCALE
    fits = _finite_images(scaled)
    if fits.all():
        return scaled
    unscaled = _gradient(values, inputs, 1.0).float()
    unscaled = torch.where(_finite_images(unscaled), unscaled, 0.0)
    return torch.where(fits, scaled, unscaled)


def _gradient(values: Tensor, inputs: Tensor, scale: float) -> Tensor:
    weight = torch.full_like(values, scale)
    return torch.autograd.grad(values, inputs, weight, retain_graph=True)[0]


def _finite_images(gradient: Tensor) -> Tensor:
    """Whether all of an image's gradient is finite, ``(B, 1, ...)``."""
    return gradient.isfinite().flatten(1).all(dim=1).view(-1, *[1] * (gradient.ndim - 1))


def _in_fp16(values: Tensor, inputs: Tensor) -> bool:
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.float16
    return torch.float16 in (values.dtype, inputs.dtype)
