"""The encoder: a timm model as a feature map and the embedding that is pooled from it.

The embedding p is timm's pooled pre-logits, the output of a model with ``num_classes=0``. All metrics, exported files
and :func:`load_encoder` use it (:ref:`F5 <f5>`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn

from ppssl.checkpointing.files import read_checkpoint, read_weights
from ppssl.utils.errors import UserError, did_you_mean

__all__ = [
    "Encoder",
    "EncoderInfo",
    "Features",
    "as_map",
    "evaluation_mode",
    "load_encoder",
    "resnet_small",
]

PREFIX = "encoder.model."


class Features(NamedTuple):
    """Feature map and embedding of a batch.

    Attributes:
        map: The feature map F that is pooled, ``(B, C, h, w)``; tokens become a grid, class tokens are left out.
        embedding: p, ``(B, D)``.
    """

    map: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class EncoderInfo:
    """Sizes and normalisation of an encoder, from which objectives and plugins create their parameters.

    Attributes:
        dim: D, the length of the embedding.
        channels: C, the channels of the feature map.
        mean: Mean of each channel that its input is normalised with, in units of [0, 1].
        std: Standard deviation of each channel, likewise.
    """

    dim: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Encoder(nn.Module):
    """A timm model without its classifier.

    Args:
        backbone: Any timm model name, or ``resnet_small``, this project's encoder for small images on a CPU.
        pretrained: timm's weights (``True``), none (``False``), or a local file or folder: an encoder or checkpoint of
            ppssl, or a timm ``.safetensors`` / ``.pth`` file, all of whose encoder weights must fit.
        image_size: Height and width of the input in pixels, for models that are built for one size (ViT).
        kwargs: More arguments of the timm model, such as ``channels`` or ``drop_path_rate``.

    Raises:
        UserError: No such model, weights that do not fit, or none to be had.
    """

    model: Any  # timm's models share an interface, not a type

    def __init__(
        self,
        backbone: str,
        pretrained: bool | str = False,
        image_size: int | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.spec: dict[str, Any] = {
            "backbone": backbone,
            "image_size": image_size,
            "kwargs": dict(kwargs or {}),
        }
        self.model = _create(**self.spec, pretrained=pretrained is True)
        self._format = (
            torch.channels_last if _is_convolutional(self.model) else torch.contiguous_format
        )
        self.model.to(memory_format=self._format)
        if isinstance(pretrained, str):
            _load_strictly(self.model, _encoder_weights(Path(pretrained)), pretrained)

    @property
    def info(self) -> EncoderInfo:
        """Sizes of the feature map and embedding, and the normalisation of the input."""
        cfg = self.model.pretrained_cfg
        dim = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        return EncoderInfo(dim, self.model.num_features, tuple(cfg["mean"]), tuple(cfg["std"]))

    def features(self, images: Tensor) -> Features:
        """Feature map and embedding of ``(B, 3, H, W)`` normalised images; gradients flow to the images.

        The embedding is pooled from this very map, so its gradient with respect to the map can be asked for.
        """
        hidden = self.model.forward_features(images.contiguous(memory_format=self._format))
        feature_map = as_map(self.model, hidden)
        hidden = _from_map(self.model, feature_map, hidden)
        return Features(feature_map, self.model.forward_head(hidden, pre_logits=True))

    def forward(self, images: Tensor) -> Tensor:
        """The embedding alone: ``(B, 3, H, W) -> (B, D)``."""
        return self.model(images.contiguous(memory_format=self._format))

    @contextmanager
    def stages(self) -> Iterator[dict[str, Tensor]]:
        """Hidden states of timm's stages (``feature_info``), by name, recorded by hooks while the encoder runs.

        Of more than five stages, such as the blocks of a ViT, five evenly spaced ones are recorded. Hooks are needed
        because tokens from timm's ``forward_intermediates`` are copies that the embedding does not depend on.

        Yields:
            Filled by the next forward pass: hidden states with their graph, as the model has them (:func:`as_map`).
        """
        names = [info["module"] for info in getattr(self.model, "feature_info", [])]
        kept = {names[round(i)] for i in np.linspace(0, len(names) - 1, 5)} if names else set()
        seen: dict[str, Tensor] = {}
        hooks = [
            self.model.get_submodule(name).register_forward_hook(partial(_keep, seen, name))
            for name in names
            if name in kept
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def _is_convolutional(model: nn.Module) -> bool:
    """Whether channels_last pays: an encoder of convolutions, not one whose only convolution makes patches."""
    return sum(isinstance(m, nn.Conv2d) for m in model.modules()) > 3


def as_map(model: Any, hidden: Tensor) -> Tensor:
    """Output of ``forward_features`` or of a stage of a timm model as a map ``(B, C, h, w)``, without class tokens."""
    if hidden.ndim == 4:
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return hidden.permute(0, 3, 1, 2) if channels_last else hidden
    tokens = hidden[:, getattr(model, "num_prefix_tokens", 0) :]
    height, width = model.patch_embed.grid_size
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def load_encoder(path: str | Path) -> nn.Module:
    """Load the encoder of a checkpoint as a timm model in evaluation mode: ``(B, 3, H, W) -> (B, D)``.

    Needs neither the data set nor the plugins nor transformers.

    Args:
        path: A checkpoint of ``ppssl fit``.

    Raises:
        UserError: No such file, no checkpoint of ppssl, or weights that do not fit, naming the keys.
    """
    checkpoint = read_checkpoint(path)
    model = _create(**checkpoint["ppssl"]["encoder"], pretrained=False)
    _load_strictly(model, _strip(checkpoint["state_dict"]), str(path))
    return model.eval()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context in which a model is in evaluation mode; afterwards each submodule is back in its previous mode."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def resnet_small(
    width: int = 32, depth: int = 1, in_chans: int = 3, num_classes: int = 0, **kwargs: Any
) -> ByobNet:
    """Narrow ResNet of stride 8, for images of 48 to 96 pixels on a CPU.

    3x3 stem of stride 2, then stages of ``depth`` basic blocks with 1, 2, 4 and 8 times ``width`` channels and
    strides 1, 2, 2, 1; timm's own blocks. Unlike timm's default no block begins as its shortcut alone
    (``zero_init_last``): in so small a network that leaves few random features to begin with, and how well MoCo v2 does
    then depends on which ones they are (experiments/RESULTS.md).
    """
    stages = [(width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 1)]
    blocks = tuple(ByoBlockCfg(type="basic", d=depth, c=c, s=s, gs=0, br=1.0) for c, s in stages)
    cfg = ByoModelCfg(blocks=blocks, stem_chs=width, stem_type="3x3", stem_pool="")
    kwargs = {"zero_init_last": False} | kwargs
    model = ByobNet(cfg, num_classes=num_classes, in_chans=in_chans, **kwargs)
    model.pretrained_cfg = {  # type: ignore[assignment]  # timm sets it likewise
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return model


def _from_map(model: Any, feature_map: Tensor, hidden: Tensor) -> Tensor:
    """Inverse of :func:`as_map`: the map in the layout of the model, with the class tokens of ``hidden``."""
    if hidden.ndim == 4:
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return feature_map.permute(0, 2, 3, 1) if channels_last else feature_map
    prefix = hidden[:, : getattr(model, "num_prefix_tokens", 0)]
    return torch.cat([prefix, feature_map.flatten(2).transpose(1, 2)], dim=1)


def _keep(seen: dict[str, Tensor], name: str, _: nn.Module, __: Any, output: Tensor) -> None:
    seen[name] = output


def _create(
    backbone: str, image_size: int | None, kwargs: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    if backbone == "resnet_small":
        if pretrained:
            raise UserError(
                "There are no pretrained weights for `resnet_small`; set `pretrained: false`."
            )
        return resnet_small(**kwargs)
    if not timm.is_model(backbone):
        hint = did_you_mean(backbone, timm.list_models(), "; `timm.list_models()` names them")
        raise UserError(f"timm has no model `{backbone}`{hint}.")
    cfg = timm.get_pretrained_cfg(backbone)
    sized: dict[str, Any] = (
        {"img_size": image_size} if image_size and cfg is not None and cfg.fixed_input_size else {}
    )
    try:
        return timm.create_model(backbone, pretrained=pretrained, num_classes=0, **sized, **kwargs)
    except TypeError as error:
        raise UserError(
            f"`{backbone}` does not take these `backbone_kwargs` {dict(kwargs)}: {error}."
        ) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).split("\n")[0]
        raise UserError(
            f"Cannot get timm's weights of `{backbone}` ({reason}): without network give a local file, "
            "`pretrained: path/to/model.safetensors`."
        ) from error


def _encoder_weights(path: Path) -> dict[str, Tensor]:
    """Encoder weights from a ppssl checkpoint or a timm file, without classifier."""
    weights = read_weights(path)
    weights = _strip(weights) or weights
    heads = ("head.fc.", "fc.", "classifier.", "head.")
    classifier = next(
        (p for p in heads if {k for k in weights if k.startswith(p)} == {p + "weight", p + "bias"}),
        None,
    )
    return {k: v for k, v in weights.items() if classifier is None or not k.startswith(classifier)}


def _strip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}


def _load_strictly(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    own = model.state_dict()
    wrong = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(
            k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape
        ),
    }
    if any(wrong.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(keys[:5])}{' ...' * (len(keys) > 5)}"
            for kind, keys in wrong.items()
            if keys
        )
        raise UserError(
            f"The encoder weights in {where} do not fit the backbone: {listed}. Give the `backbone` and "
            "`backbone_kwargs` that they were trained with; of a checkpoint a classifier knows them: `backbone: null`."
        )
    model.load_state_dict(weights)
