"""Which embedding of an image is meant: the encoder's own, or one pooled with what a plugin attends to (METHOD D13)."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ppssl.checkpointing.files import restore
from ppssl.encoder import Encoder, load_encoder
from ppssl.functional import attend
from ppssl.losses.base import LossPlugin
from ppssl.utils.errors import UserError

__all__ = ["AttendedEncoder", "Feature", "attends", "feature_encoder"]

Feature = Literal["gap", "branch"]
"""``"gap"``: p, what the encoder itself pools; ``"branch"``: its feature map pooled with IADM's A, as LCR reports."""


class AttendedEncoder(nn.Module):
    """An encoder whose feature map is pooled with what a plugin attends to: ``(B, 3, H, W) -> (B, C)``.

    ``sum over places of A * F`` (:func:`ppssl.functional.attend`); what timm does after its own pooling, such as a
    norm, is
    not done.

    Args:
        encoder: Makes F.
        plugin: Makes A of F (:meth:`ppssl.LossPlugin.attention`).
    """

    def __init__(self, encoder: Encoder, plugin: LossPlugin) -> None:
        super().__init__()
        self.encoder, self.plugin = encoder, plugin
        self.pretrained_cfg: dict[str, Any] = encoder.model.pretrained_cfg
        self.num_features = encoder.info.channels

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of normalised images."""
        feature_map = self.encoder.features(images).map
        attention = self.plugin.attention(feature_map)
        if attention is None:
            raise ValueError(f"`{type(self.plugin).__name__}` attends to no place.")
        return attend(feature_map, attention)


def feature_encoder(model: nn.Module | str | Path, feature: Feature = "gap") -> Any:
    """The module that makes the embeddings, ``(B, 3, H, W) -> (B, D)``, with timm's ``pretrained_cfg``.

    Args:
        model: A timm model, a model of ppssl, or the path of a checkpoint.
        feature: Which embedding. ``"branch"`` needs a model of ppssl that was trained with IADM, or with another plugin
            that attends to places: the first one does.

    Raises:
        UserError: The checkpoint cannot be read, or no plugin attends to places.
    """
    if feature not in ("gap", "branch"):
        raise ValueError(f"`feature` must be 'gap' or 'branch', got {feature!r}.")
    if feature == "gap":
        if isinstance(model, str | Path):
            return load_encoder(model)
        encoder: Any = getattr(model, "encoder", model)
        return getattr(encoder, "model", encoder)
    where = f"{model}" if isinstance(model, str | Path) else f"this {type(model).__name__}"
    whole: Any = restore(nn.Module, model, {}) if isinstance(model, str | Path) else model
    plugin = _attending(whole)
    if plugin is None:
        raise UserError(
            f"`feature: branch` pools with what IADM attends to, and {where} was not trained with it: "
            "give a checkpoint that was, or choose `gap`."
        )
    return AttendedEncoder(whole.encoder, plugin)


def attends(model: nn.Module) -> bool:
    """Whether a model has the embedding ``"branch"``."""
    return _attending(model) is not None


def _attending(model: Any) -> LossPlugin | None:
    """The first plugin that says where it attends to."""
    plugins = dict(getattr(model, "plugins", {})).values()
    return next((p for p in plugins if type(p).attention is not LossPlugin.attention), None)
