"""Embeddings of images: choose a model's feature, and embed the images of a data loader."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ppssl.checkpointing.files import restore
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.encoder import Encoder, evaluation_mode, load_encoder
from ppssl.functional import attend
from ppssl.losses.loss_plugin import LossPlugin
from ppssl.utils.device import placement
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import PATH_TYPES, AnyPath, expand
from ppssl.utils.timm_features import check_image_size

__all__ = [
    "AttentionPooledEncoder",
    "Embeddings",
    "Feature",
    "embed_loader",
    "feature_encoder",
    "has_branch_feature",
]

Feature = Literal["gap", "branch"]
"""``"gap"``: p, the encoder's pooled embedding; ``"branch"``: its feature map pooled with IADM's map A, as in LCR."""
BYTES_PER_VALUE = 40
"""GPU memory of an evaluation, per value of the features: float32, joined, and float64 for the metrics."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings, labels and indices of images: one row per image, in ascending order of index, without duplicates.

    Attributes:
        features: ``(N, D)`` float32, not normalised; on the encoder's device if that is a GPU with room for them, else
            on the CPU.
        labels: ``(N,)`` int64, on the CPU, -1 where unknown.
        index: ``(N,)`` int64, on the CPU, the image's number in the full data set.
    """

    features: Tensor
    labels: Tensor
    index: Tensor


@torch.inference_mode()
def embed_loader(
    model: nn.Module,
    loader: DataLoader[Any],
    data: FineGrainedDataModule,
    *,
    description: str = "Embedding",
) -> Embeddings:
    """Embed the images of an evaluation loader; on a GPU the host does not wait for any batch.

    Args:
        model: ``(B, 3, H, W) -> (B, D)``; used in evaluation mode, on its device and in its precision.
        loader: One of ``data``'s evaluation loaders.
        data: The data module, which normalises the images; call its ``normalise_with`` first.
        description: Label of the progress bar.
    """
    device, dtype = placement(model)
    features: list[Tensor] = []
    labels, index = [], []
    with evaluation_mode(model):
        check_image_size(model, data.image_size)
        for raw in track(loader, description=description, transient=True):
            batch = data.on_before_batch_transfer(raw, 0)
            images = data.normalise(batch["image"].to(device, non_blocking=True))
            output = model(images.to(dtype))
            storage = features[0].device if features else _storage_device(output, loader)
            features.append(output.to(storage, torch.float32))
            labels.append(batch["label"])
            index.append(batch["index"])
    all_index = torch.cat(index)
    # Sorted and unique: where a broken image was replaced, the substitute occurs twice.
    _, rows = np.unique(all_index, return_index=True)
    return Embeddings(torch.cat(features)[rows], torch.cat(labels)[rows], all_index[rows])


def _storage_device(output: Tensor, loader: DataLoader[Any]) -> torch.device:
    """The device that keeps the features ``(N, D)`` of a loader, by its first batch of outputs ``(B, D)``."""
    if output.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(output.device)
        if BYTES_PER_VALUE * len(loader.dataset) * output.shape[1] <= free:  # type: ignore[arg-type]  # it has a length
            return output.device
    return torch.device("cpu")


class AttentionPooledEncoder(nn.Module):
    """Encoder whose feature map is pooled with a plugin's attention map: ``(B, 3, H, W) -> (B, C)``.

    ``sum over places of A * F`` (:func:`ppssl.functional.attend`). Layers that timm applies after its own pooling, such
    as a norm, are not applied.

    Args:
        encoder: Computes the feature map F.
        plugin: Computes the attention map A ``(B, h', w')`` from F, by a method ``attention`` as IADM has
            (:meth:`ppssl.losses.iadm.plugin.IADM.attention`).
    """

    def __init__(self, encoder: Encoder, plugin: LossPlugin) -> None:
        super().__init__()
        self.encoder, self.plugin = encoder, plugin
        self.attention: Callable[[Tensor], Tensor] = plugin.attention  # type: ignore[assignment]  # not every plugin's
        self.pretrained_cfg: dict[str, Any] = encoder.model.pretrained_cfg
        self.num_features = encoder.info.channels

    def forward(self, images: Tensor) -> Tensor:
        """Embed normalised images."""
        feature_map = self.encoder.features(images).map
        return attend(feature_map, self.attention(feature_map))


def feature_encoder(model: nn.Module | AnyPath, feature: Feature = "gap") -> Any:
    """Return the module that computes a feature, ``(B, 3, H, W) -> (B, D)``, with timm's ``pretrained_cfg``.

    Args:
        model: A timm model without its classifier, a model of ppssl, any module with timm's ``pretrained_cfg``, or
            the path of a checkpoint.
        feature: The feature (:data:`Feature`). ``"branch"`` needs a model of ppssl that was trained with IADM or with
            another plugin that has an attention map; of several such plugins the first is used (:ref:`D13 <d13>`).

    Raises:
        UserError: The checkpoint cannot be read, no plugin has an attention map, or the model has a classifier, or does
            not say how its images are normalised.
    """
    if feature not in ("gap", "branch"):
        raise ArgumentError(f"`feature` must be 'gap' or 'branch', got {feature!r}.")
    if feature == "gap":
        if isinstance(model, PATH_TYPES):
            return load_encoder(expand(model))
        encoder = getattr(model, "encoder", model)
        return _checked(encoder.model if isinstance(encoder, Encoder) else model)
    if isinstance(model, PATH_TYPES):
        name = str(model)
        trained: Any = restore(nn.Module, model, {})
    else:
        name = f"this {type(model).__name__}"
        trained = model
    plugin = _attention_plugin(trained)
    if plugin is None:
        raise UserError(
            f"`feature: branch` needs the attention map of IADM, and {name} was trained without IADM: give a "
            "checkpoint that was trained with it, or choose `feature: gap`."
        )
    return AttentionPooledEncoder(trained.encoder, plugin)


def _checked(encoder: Any) -> Any:
    """An encoder that says what it takes, and gives embeddings."""
    name = f"A `{type(encoder).__name__}`"
    if not hasattr(encoder, "pretrained_cfg"):
        raise UserError(
            f"{name} has no `pretrained_cfg`, the mean and std of its input: give a model of timm or ppssl; "
            "`ppssl.PPSSL(backbone)` makes one of a module that returns a feature map."
        )
    if getattr(encoder, "num_classes", 0):
        raise UserError(
            f"{name} with a classifier returns {encoder.num_classes:,} logits and no embedding: call its "
            "`reset_classifier(0)` first, or make it with `num_classes=0`."
        )
    return encoder


def has_branch_feature(model: nn.Module) -> bool:
    """Return whether a model has the feature ``"branch"``."""
    return _attention_plugin(model) is not None


def _attention_plugin(model: Any) -> LossPlugin | None:
    """The first plugin that has an attention map."""
    for plugin in dict(getattr(model, "plugins", {})).values():
        if hasattr(plugin, "attention"):
            return plugin
    return None
