"""Grad-CAM of the encoder's last layer by the grad-cam library, a baseline for the GradCAM of the image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppssl.utils.timm_features import NoFeatureMapError, as_map, stage_modules

__all__ = ["find_timm_model", "output_gradcam"]


def output_gradcam(
    model: nn.Module,
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    layer: nn.Module | None = None,
) -> Tensor | None:
    """Compute Grad-CAM maps of a score at the last layer of an encoder, resized to the images.

    Args:
        model: A timm model or what holds one, in evaluation mode.
        score: Score of each image; runs the model once.
        images: ``(B, 3, H, W)``, normalised.
        layer: The layer; ``None``: the last stage of the timm model, in a ViT the input of the last block's
            attention, which is the last layer where patches influence the class token.

    Returns:
        ``(B, H, W)`` in [0, 1], as the library scales and resizes it; ``None`` without a timm model or a layer, if
        the output of the last stage is no map, or if the score does not depend on it.
    """
    from pytorch_grad_cam import GradCAM

    timm_model = find_timm_model(model)
    if layer is None:
        if timm_model is None:
            return None
        layer = _last_layer(timm_model)
    if layer is None:
        return None
    reshape = None if timm_model is None else partial(as_map, timm_model)
    gradients = [p.grad for p in model.parameters()]
    x = (
        images.detach().clone().requires_grad_()
    )  # a frozen encoder has a gradient at its layers then
    scored = _Scored(model, score)
    try:
        with (
            torch.enable_grad(),
            GradCAM(model=scored, target_layers=[layer], reshape_transform=reshape) as cam,
        ):
            return torch.from_numpy(cam(x, targets=[_itself] * len(x)))
    except NoFeatureMapError:
        return None
    except AttributeError:  # of the library, for a layer that is not called or not on the way
        if cam.activations_and_grads.gradients:
            raise
        return None
    finally:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient  # the library zeroes them


def find_timm_model(model: nn.Module) -> Any:
    """Return the first module inside a module that has timm's interface, or ``None``."""
    found = (
        m
        for m in model.modules()
        if hasattr(m, "forward_features") and hasattr(m, "pretrained_cfg")
    )
    return next(found, None)


def _last_layer(timm_model: Any) -> nn.Module | None:
    if getattr(timm_model, "num_prefix_tokens", 0) and hasattr(timm_model.blocks[-1], "norm1"):
        return timm_model.blocks[-1].norm1
    stages = list(getattr(timm_model, "feature_info", []))
    return stage_modules(timm_model).get(stages[-1]["module"]) if stages else None


class _Scored(nn.Module):
    """A model followed by a score, for the library to hook and differentiate."""

    def __init__(self, model: nn.Module, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, images: Tensor) -> Tensor:
        return self.score(images)


def _itself(score: Tensor) -> Tensor:
    """Target function of the library: the score itself."""
    return score
