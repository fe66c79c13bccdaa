"""Modules of any library as encoders: what they return as feature map and embedding, behind the interface of timm."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from torch import Tensor, nn

from ppssl.utils.errors import UserError

__all__ = ["ModuleEncoder", "as_encoder", "freeze_unused"]

_EXPECTED = (
    "an encoder must return a feature map (B, C, h, w), tokens (B, N, C), or a pair of one of them and the embedding "
    "(B, D)"
)


def as_encoder(module: nn.Module) -> nn.Module:
    """A module with timm's interface; a model of timm itself is returned without its classifier.

    Args:
        module: A model of timm, or any module that :class:`ModuleEncoder` takes.
    """
    if not hasattr(module, "forward_features") or not hasattr(module, "forward_head"):
        return ModuleEncoder(module)
    if getattr(module, "num_classes", 0) and hasattr(module, "reset_classifier"):
        module.reset_classifier(0)  # type: ignore[operator]  # a method of timm's models
    if not hasattr(module, "pretrained_cfg"):
        module.pretrained_cfg = _input_of(module)  # type: ignore[assignment]  # timm sets it likewise
    return module


class ModuleEncoder(nn.Module):
    """Encoder of a module that is not of timm: ``(B, 3, H, W) -> (B, D)``.

    The module returns, for images ``(B, 3, H, W)``, a feature map ``(B, C, h, w)``, tokens ``(B, N, C)`` in rows of a
    grid after class tokens and registers, a pair of one of them and the embedding ``(B, D)``, the output of a model of
    transformers, or a dict with one of these. Without an embedding the mean over the map's places is taken.

    Args:
        module: The module. Its ``pretrained_cfg`` or else its configuration (``config`` of transformers) may name what
            it expects: ``mean`` and ``std`` of the input (default: ImageNet's), ``input_size`` or ``image_size``,
            ``patch_size``.

    Attributes:
        pretrained_cfg: ``mean`` and ``std`` of the normalised input, and ``input_size`` ``(3, H, W)`` if it is known.
        num_features: D; 0 until an image has been seen.
        feature_info: Stages, as of timm's models: none are known.
    """

    feature_info: Sequence[dict[str, Any]] = ()

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.pretrained_cfg = _input_of(module)
        self.num_features = 0

    def forward_features(self, images: Tensor) -> Any:
        """Feature map ``(B, C, h, w)`` that the embedding is the mean of, or a pair of a map and the embedding.

        Raises:
            UserError: The module returns something else.
        """
        hidden, embedding = _split(self.module(images))
        if not isinstance(hidden, Tensor) or hidden.ndim not in (3, 4):
            raise UserError(self._complaint(hidden))
        feature_map = hidden if hidden.ndim == 4 else self._grid(hidden, images.shape[2:])
        if embedding is None:
            return feature_map
        if not isinstance(embedding, Tensor) or embedding[0].numel() != embedding.shape[1]:
            raise UserError(self._complaint(embedding))
        return feature_map, embedding.flatten(1)

    def forward_head(self, hidden: Any, pre_logits: bool = True) -> Tensor:
        """Embedding ``(B, D)`` of the output of :meth:`forward_features`."""
        return hidden.mean(dim=(2, 3)) if isinstance(hidden, Tensor) else hidden[1]

    def forward_intermediates(self, images: Tensor, **_: Any) -> tuple[Any, list[Tensor]]:
        """Output of :meth:`forward_features`, and the map in it, as timm's method returns them."""
        hidden = self.forward_features(images)
        return hidden, [hidden if isinstance(hidden, Tensor) else hidden[0]]

    def forward(self, images: Tensor) -> Tensor:
        """The embedding ``(B, D)``."""
        return self.forward_head(self.forward_features(images))

    def _grid(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """Tokens ``(B, N, C)`` as a map: class tokens and registers come first and are left out."""
        count = tokens.shape[1]
        patch = getattr(getattr(self.module, "config", self.module), "patch_size", None)
        rows, columns = (s // patch for s in size) if isinstance(patch, int) else (0, 0)
        if not 0 < rows * columns <= count:
            rows = columns = math.isqrt(count)  # of 0 or 1 class tokens
        if rows * columns < count - 1 and not isinstance(patch, int):
            raise UserError(
                f"`{type(self.module).__name__}` returns {count} tokens, which make no square: give the module a "
                "`patch_size`, or return a map (B, C, h, w)."
            )
        places = tokens[:, count - rows * columns :]
        return places.transpose(1, 2).unflatten(2, (rows, columns))

    def _complaint(self, value: Any) -> str:
        form = tuple(value.shape) if isinstance(value, Tensor) else f"a `{type(value).__name__}`"
        return (
            f"`{type(self.module).__name__}` returns {form} for images, and {_EXPECTED}: of a classifier give the "
            "layers before its pooling, such as `nn.Sequential(*list(resnet.children())[:-2])`."
        )


def freeze_unused(model: nn.Module, size: int | tuple[int, int]) -> None:
    """Do not train parameters that neither map nor embedding depends on, such as DINOv2's mask token.

    Several processes would wait for their gradients.

    Args:
        model: A model with timm's interface, in evaluation mode.
        size: Height and width in pixels of images that it takes.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    try:
        used = _used(model, names, size, "meta")
    except Exception:  # of what has no meta kernel or reads values
        used = _used(model, names, size, None)
    for name in set(names) - used:
        model.get_parameter(name).requires_grad_(False)


def _used(
    model: nn.Module, names: Sequence[str], size: int | tuple[int, int], device: str | None
) -> set[str]:
    """Names of the parameters that map or embedding depends on, by a run on the meta device or a real one."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {
        name: (t.detach() if device is None else torch.empty_like(t, device=device))
        for name, t in state.items()
    }
    trained = [state[name].requires_grad_() for name in names]
    device = device or next((str(t.device) for t in state.values()), "cpu")
    images = torch.zeros(2, 3, *to_2tuple(size), device=device)
    with torch.enable_grad():
        total = torch.func.functional_call(
            _Outputs(model), {f"model.{n}": t for n, t in state.items()}, images
        )
    if not trained or not total.requires_grad:
        return set(names)
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    return {name for name, g in zip(names, gradients, strict=True) if g is not None}


class _Outputs(nn.Module):
    """The sum of feature map and embedding, a scalar."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> Tensor:
        hidden, maps = self.model.forward_intermediates(images)
        return maps[-1].sum() + self.model.forward_head(hidden).sum()


def _input_of(module: nn.Module) -> dict[str, Any]:
    """Mean, std and size of a module's input, as far as it names them."""
    named: Any = getattr(module, "pretrained_cfg", None) or {}
    size = getattr(getattr(module, "config", None), "image_size", None)
    cfg: dict[str, Any] = {} if not isinstance(size, int) else {"input_size": (3, size, size)}
    cfg |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return cfg | {n: named[n] for n in ("mean", "std", "input_size") if named.get(n) is not None}


def _split(output: Any) -> tuple[Any, Any]:
    """Map or tokens, and the embedding if there is one, in what a module returns."""
    if hasattr(output, "last_hidden_state"):  # of transformers
        return output.last_hidden_state, getattr(output, "pooler_output", None)
    if isinstance(output, Mapping) and len(output) == 1:  # of torchvision's feature extractors
        return _split(next(iter(output.values())))
    if isinstance(output, tuple | list) and len(output) == 2:
        return output[0], output[1]
    return output, None
