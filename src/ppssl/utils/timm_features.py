"""Feature maps of timm's models: their hidden states have several layouts, and some sizes do not fit a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from ppssl.utils.device import placement
from ppssl.utils.errors import UserError

__all__ = [
    "FeatureShapes",
    "NoFeatureMapError",
    "as_map",
    "check_image_size",
    "feature_shapes",
    "forward_features",
    "from_map",
    "recorded_stages",
    "stage_modules",
]


class FeatureShapes(NamedTuple):
    """Shapes that a model's features have for square images of a size.

    Attributes:
        channels: C of the feature map.
        dim: D, the length of the embedding.
        map_beside: Whether the embedding is not pooled from the map but beside it: of class tokens alone (PiT), or of
            several maps (CoaT, CrossViT, EfficientViM). The map is the last one of timm's ``forward_intermediates``.
        size: Height and width of these images in pixels.
    """

    channels: int
    dim: int
    map_beside: bool
    size: int | tuple[int, int]


def forward_features(model: Any, images: Tensor, map_beside: bool = False) -> tuple[Any, Any]:
    """Hidden state of a timm model, which its ``forward_head`` takes, and the map beside it ``(B, C, h, w)`` if any."""
    if not map_beside:
        return model.forward_features(images), None
    hidden, maps = model.forward_intermediates(images, indices=1, norm=True)
    return hidden, maps[-1]


class NoFeatureMapError(ValueError):
    """What a layer gives is no map of places."""


def as_map(model: Any, hidden: Tensor) -> Tensor:
    """Output of ``forward_features`` or of a stage of a timm model as a map ``(B, C, h, w)``, without class tokens.

    Raises:
        NoFeatureMapError: It is neither a map nor tokens of a grid.
    """
    if not isinstance(hidden, Tensor) or hidden.ndim not in (3, 4):
        raise NoFeatureMapError(f"The output of a layer of {type(model).__name__} is no map.")
    if hidden.ndim == 4:
        return hidden.permute(0, 3, 1, 2) if _is_channels_last(model) else hidden
    prefix, grid = _token_layout(model, hidden.shape[1])
    return hidden[:, prefix:].transpose(1, 2).unflatten(2, grid)


def from_map(model: Any, feature_map: Tensor, hidden: Tensor) -> Tensor:
    """Inverse of :func:`as_map`: the map in the layout of the model, with the class tokens of ``hidden``."""
    if hidden.ndim == 4:
        return feature_map.permute(0, 2, 3, 1) if _is_channels_last(model) else feature_map
    prefix = _token_layout(model, hidden.shape[1])[0]
    return torch.cat([hidden[:, :prefix], feature_map.flatten(2).transpose(1, 2)], dim=1)


def _is_channels_last(model: Any) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def _token_layout(model: Any, count: int) -> tuple[int, tuple[int, int]]:
    """Number of class tokens and registers among ``count`` tokens, and the grid of the others.

    The grid is that of the model's patches or a square. Not every model names its class tokens, and in some they come
    in a late layer.
    """
    patches = _patches(model)
    for prefix in (getattr(model, "num_prefix_tokens", 0), 0, 1):
        places, side = count - prefix, math.isqrt(max(count - prefix, 0))
        if places == math.prod(patches) > 0:
            return prefix, patches
        if places == side * side > 0:
            return prefix, (side, side)
    raise NoFeatureMapError(f"{count} tokens of {type(model).__name__} make no square.")


def _patches(model: Any) -> tuple[int, int]:
    """Rows and columns of patches that the first layer of a model of one size makes; (0, 0): not known."""
    return tuple(getattr(getattr(model, "patch_embed", None), "grid_size", None) or (0, 0))


def feature_shapes(
    model: Any, name: str, size: int | tuple[int, int] | None = None, advice: str | None = None
) -> FeatureShapes:
    """Find the shapes of a model's features by running it on the meta device, which computes nothing.

    Args:
        model: A timm model in evaluation mode; it is left as it is.
        name: Its name, for messages.
        size: Height and width of the images in pixels; ``None``: those that the model was trained with.
        advice: What to do if it does not take them, for the message; ``None``: to set the size of all.

    Raises:
        UserError: The model does not take images of this size, or gives no feature map or no pooled embedding.
    """
    if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
        raise UserError(
            f"`{name}` gives no embedding, only a {type(model).__name__}: leave out `features_only` in "
            "`backbone_kwargs`, or choose another model."
        )
    own = model.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    size = own if size is None else size
    try:
        hidden, beside, embedding = _run(model, torch.Size((2, 3, *to_2tuple(size))))
    except UserError:
        raise
    except Exception as error:  # timm has no type of error for this
        if advice is None:
            example = f", such as {own}" if own != size else ""
            advice = f"set `model.image_size` and `data.image_size` to the same size, one that it takes{example}."
        raise UserError(
            f"`{name}` does not take images of {size} pixels ({_reason(error)}): {advice}"
        ) from error
    if embedding.ndim != 2:
        raise UserError(
            f"`{name}` gives {tuple(embedding.shape[1:])} for an image and not one pooled embedding: leave out "
            "`global_pool` in `backbone_kwargs`."
        )
    feature_map = as_map(model, hidden) if beside is None else beside
    return FeatureShapes(feature_map.shape[1], embedding.shape[1], beside is not None, size)


def check_image_size(model: nn.Module, size: int) -> None:
    """Check that a trained encoder takes images of a size; only timm models are asked.

    Args:
        model: A timm model or what holds one, in evaluation mode.
        size: Height and width in pixels.

    Raises:
        UserError: It does not.
    """
    asked = ("forward_features", "forward_head", "pretrained_cfg")
    for part in model.modules():
        if all(hasattr(part, name) for name in asked):
            try:
                _run(part, torch.Size((2, 3, size, size)))
            except Exception as error:
                raise UserError(
                    f"The encoder does not take images of {size} pixels ({_reason(error)}): set `image_size` of the "
                    "data to a size that it takes, such as that of its training."
                ) from error
            return


def stage_modules(model: Any) -> dict[str, nn.Module]:
    """The stages of a timm model by name, as far as its ``feature_info`` names modules that exist."""
    modules = dict(model.named_modules())
    names = [info["module"] for info in getattr(model, "feature_info", [])]
    return {name: modules[name] for name in names if name in modules}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100].rstrip(". ") or type(error).__name__


@torch.no_grad()
def _run(model: nn.Module, shape: torch.Size) -> tuple[Any, Tensor | None, Tensor]:
    """Hidden state, map beside it and embedding, on the meta device or where the model cannot run there, really."""
    run = _Features(model)
    device, dtype = placement(model)
    try:
        state = {n: t.to("meta") for n, t in [*run.named_parameters(), *run.named_buffers()]}
        images = torch.empty(shape, dtype=dtype, device="meta")
        return torch.func.functional_call(run, state, (images,), tie_weights=False)
    except Exception:  # of what has no meta kernel or reads values
        return run(torch.zeros(shape, dtype=dtype, device=device))


class _Features(nn.Module):
    """The hidden state, the map beside it if there is none in it, and the embedding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> tuple[Any, Tensor | None, Tensor]:
        hidden, beside = forward_features(self.model, images)
        if not self._has_map(hidden, images):
            hidden, beside = forward_features(self.model, images, map_beside=True)
        return hidden, beside, self.model.forward_head(hidden, pre_logits=True)

    def _has_map(self, hidden: Any, images: Tensor) -> bool:
        """Whether the hidden state is a map, of as many places as timm's own last one if it is of tokens."""
        try:
            height, width = as_map(self.model, hidden).shape[2:]
        except NoFeatureMapError:
            return False
        known = hidden.ndim == 4 or (height, width) == _patches(self.model)
        if known or not hasattr(self.model, "forward_intermediates"):
            return True
        theirs = self.model.forward_intermediates(images, indices=1, intermediates_only=True)[-1]
        return theirs.shape[2:] == (height, width)


@contextmanager
def recorded_stages(model: Any) -> Iterator[dict[str, Tensor]]:
    """Hidden states of timm's stages (``feature_info``), by name, recorded by hooks while the model runs.

    Of more than five stages, such as the blocks of a ViT, five evenly spaced ones are recorded. Hooks are needed
    because tokens from timm's ``forward_intermediates`` are copies that the embedding does not depend on.

    Args:
        model: A timm model.

    Yields:
        Filled by the next forward pass: hidden states with their graph, as the model has them (:func:`as_map`).
    """
    stages = list(stage_modules(model).items())
    kept = {round(i) for i in np.linspace(0, len(stages) - 1, 5)} if stages else set()
    seen: dict[str, Tensor] = {}
    hooks = [
        stages[i][1].register_forward_hook(partial(_keep, seen, stages[i][0])) for i in sorted(kept)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _keep(seen: dict[str, Tensor], name: str, _: nn.Module, __: Any, output: Tensor) -> None:
    seen[name] = output
