"""Creation of timm models, and encoder weights from files, which must fit completely."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from ppssl.checkpointing.files import read_weights
from ppssl.utils.errors import UserError, did_you_mean
from ppssl.utils.gem import EXPONENT, is_gem, pool_by_gem
from ppssl.utils.module_encoder import ModuleEncoder
from ppssl.utils.resnet_small import resnet_small

__all__ = ["create_model", "encoder_part", "load_file", "load_strictly"]

PREFIX = "encoder.model."
"""Prefix of the encoder's weights in checkpoints of ppssl."""
_HEAD = re.compile(
    r"(head|heads|fc|classifier|head_dist|projector|projection_head|predictor|prototypes|mlp)\."
)
"""Names of classifiers and of the heads of self-supervised methods."""
_AVERAGE = re.compile(r"(^|[._])(teacher|ema)[._]")
_BESIDE = re.compile(r"(^|[._])(student|encoder_k|key_encoder|momentum\w*|target\w*)[._]")
"""Copies beside the encoder that is used: what follows it, or what an average is of."""


def create_model(
    backbone: str, image_size: int | None, kwargs: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """Create a timm model without its classifier.

    Args:
        backbone: Any timm model name, or ``resnet_small``.
        image_size: Height and width of the input in pixels, for models that are built for one size; ``None``: theirs.
        kwargs: More arguments of the timm model; ``global_pool: gem`` is not timm's (:class:`~ppssl.utils.gem.GeM`).
        pretrained: Whether to load timm's weights.

    Raises:
        UserError: No such model, arguments that it does not take, or no weights to be had.
    """
    channels = kwargs.get("in_chans", 3)
    if channels != 3:
        raise UserError(
            f"`in_chans` is {channels}, and encoders see images of 3 channels (grey ones are read as colour): leave it "
            "out of `backbone_kwargs`."
        )
    if backbone == "resnet_small" and pretrained:
        raise UserError(
            "There are no pretrained weights for `resnet_small`; set `pretrained: false`."
        )
    if ":" in backbone:  # timm's `local-dir:` and `hf-hub:`
        raise UserError(
            f"`backbone` {backbone!r} is a place of weights: name the architecture, and give the folder as "
            "`pretrained` (docs/how-to/use-an-encoder.md)."
        )
    if backbone != "resnet_small" and not timm.is_model(backbone):
        hint = did_you_mean(
            backbone, [*timm.list_models(), "resnet_small"], "; `timm.list_models()` names them"
        )
        raise UserError(f"timm has no model `{backbone}`{hint}.")
    if not is_gem(kwargs):
        return _create(backbone, image_size, kwargs, pretrained)
    others = {name: value for name, value in kwargs.items() if name != "global_pool"}
    model = _create(backbone, image_size, others, pretrained)
    pool_by_gem(model, backbone)
    return model


def _create(
    backbone: str, image_size: int | None, kwargs: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    try:
        if backbone == "resnet_small":
            return resnet_small(num_classes=0, **kwargs)
        cfg = timm.get_pretrained_cfg(backbone)
        fixed = image_size is not None and cfg is not None and cfg.fixed_input_size
        sized: dict[str, Any] = {"img_size": image_size} if fixed else {}
        return timm.create_model(backbone, pretrained=pretrained, num_classes=0, **sized, **kwargs)
    except Exception as error:  # of timm, which checks little, or of the network
        size = "" if image_size is None else f" and `image_size` {image_size}"
        settings = f"`backbone_kwargs` {dict(kwargs)}{size}"
        raise UserError(_not_created(backbone, settings, pretrained, error)) from error


def _not_created(backbone: str, settings: str, pretrained: bool, error: Exception) -> str:
    """One line on why timm cannot create a model."""
    reason = str(error).split("\n")[0].rstrip(". ") or type(error).__name__
    if isinstance(error, TypeError):
        return (
            f"`{backbone}` does not take these {settings}: {reason}. If they are of the recipe's backbone, leave them "
            "out: `--model.backbone_kwargs=null`."
        )
    if pretrained and "state_dict" in reason:
        return f"timm's weights of `{backbone}` do not fit {settings}: leave these out, or set `pretrained: false`."
    if pretrained and isinstance(error, OSError | RuntimeError):
        return (
            f"Cannot get timm's weights of `{backbone}` ({reason}): without network give a local file, "
            "`pretrained: path/to/model.safetensors`."
        )
    return f"timm cannot create `{backbone}` with {settings} ({reason}): change these."


def load_file(model: nn.Module, path: Path) -> None:
    """Load a timm model's weights from a file, which may hold more than the model.

    The weights may be nested (``state_dict``, ``model``, ``teacher``) and have one common prefix (``backbone.``,
    ``module.encoder_q.``), which one line then names. Of several copies an average comes before the trained one, and
    that before a momentum encoder. Classifiers and projection heads are left out; all else must fit completely.

    Args:
        model: The model.
        path: A checkpoint of ppssl, a timm file, or a checkpoint of another program.

    Raises:
        UserError: No such file, no weights in it, or weights that do not fit.
    """
    groups = dict(_groups(read_weights(path)))
    if isinstance(model, ModuleEncoder) and not any(map(encoder_part, groups.values())):
        model = model.module  # weights by the module's own names
    if not groups:
        raise UserError(f"`pretrained`: {path} holds no weights by name, as of a `state_dict`.")
    own = model.state_dict()
    copies = [
        (name + prefix, _without_heads(_below(weights, prefix), own))
        for name, weights in groups.items()
        for prefix in _prefixes(weights, own)
    ]
    fitting = [(place, weights) for place, weights in copies if not _misfits(own, weights)]
    if not fitting:
        others = [_without_heads(encoder_part(w) or w, own) for w in groups.values()]
        closest = max(
            [weights for _, weights in copies] + others, key=lambda w: len(own.keys() & w.keys())
        )
        load_strictly(model, closest, str(path))
    place, weights = min(fitting, key=lambda copy: _preference(copy[0]))
    if place not in ("", "state_dict.", f"state_dict.{PREFIX}", PREFIX):
        from lightning.pytorch.utilities import (
            rank_zero_info,
        )  # reading an encoder needs no Lightning

        copies_beside = [f"`{other}`" for other, _ in fitting if other != place]
        beside = f"; {', '.join(copies_beside)} would fit too" if copies_beside else ""
        rank_zero_info(f"Encoder weights: `{place}` in {path}{beside}.")
    load_strictly(model, weights, str(path))


def _groups(
    content: Any, place: str = "", depth: int = 3
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Groups of tensors by name in nested dicts, by their place, such as ``"teacher."``."""
    if not isinstance(content, Mapping) or depth == 0:
        return
    tensors = {
        str(name).replace("_orig_mod.", ""): value  # of torch.compile
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if tensors:
        yield place, tensors
    for name, value in content.items():
        yield from _groups(value, f"{place}{name}.", depth - 1)


def _prefixes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Prefixes under which the first or the last of a model's weights is found."""
    names = list(own)
    prefixes = [
        name.removesuffix(end)
        for end in dict.fromkeys((names[0], names[-1]))
        for name in weights
        if name.endswith(end)
    ]
    return [p for p in dict.fromkeys(prefixes) if p == "" or p.endswith(".")]


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _without_heads(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without those of classifiers and projection heads.

    The counters of batch norm that old files lack are 0, and the exponent of GeM that other programs lack is as it was.
    """
    lacking = {k: v for k, v in own.items() if k.endswith((".num_batches_tracked", EXPONENT))}
    return lacking | {k: v for k, v in weights.items() if k in own or not _HEAD.match(k)}


def _preference(place: str) -> int:
    """Rank of one of several copies of an encoder; 0 is the best."""
    if place.endswith(PREFIX) and "key_encoder" not in place:
        return 0
    return 1 if _AVERAGE.search(place) else 3 if _BESIDE.search(place) else 2


def encoder_part(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights among those of a model, under timm's names."""
    return _below(weights, PREFIX)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights that must fit completely.

    Args:
        model: The timm model.
        weights: Its weights by name.
        where: The file that they are from, for the message.

    Raises:
        UserError: Weights are missing, unexpected or of another shape; the message names them.
    """
    wrong = _misfits(model.state_dict(), weights)
    if wrong:
        listed = "; ".join(
            f"{kind}: {', '.join(keys[:5])}{' ...' * (len(keys) > 5)}"
            for kind, keys in wrong.items()
        )
        raise UserError(
            f"The encoder weights in {where} do not fit the backbone: {listed}. Give the `backbone`, `image_size` and "
            "`backbone_kwargs` that they were trained with; of a checkpoint a classifier knows them: `backbone: null`."
        )
    broken = [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise UserError(
            f"The encoder weights in {where} are not finite: {', '.join(broken[:5])}{' ...' * (len(broken) > 5)}. The "
            "training that wrote them had diverged, or the file is damaged: give another one."
        )
    model.load_state_dict(weights)


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the weights that are missing, unexpected or of another shape; empty if all fit."""
    wrong = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(
            k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape
        ),
    }
    return {kind: names for kind, names in wrong.items() if names}
