"""Creation of timm models, and encoder weights from files, which must fit completely."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from ppssl.checkpointing.files import read_weights
from ppssl.utils.errors import UserError, did_you_mean
from ppssl.utils.resnet_small import resnet_small

__all__ = ["create_model", "encoder_part", "load_strictly", "read_encoder_weights"]

PREFIX = "encoder.model."


def create_model(
    backbone: str, image_size: int | None, kwargs: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """Create a timm model without its classifier.

    Args:
        backbone: Any timm model name, or ``resnet_small``.
        image_size: Height and width of the input in pixels, for models that are built for one size; ``None``: theirs.
        kwargs: More arguments of the timm model.
        pretrained: Whether to load timm's weights.

    Raises:
        UserError: No such model, arguments that it does not take, or no weights to be had.
    """
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


def read_encoder_weights(path: Path) -> dict[str, Tensor]:
    """Encoder weights from a ppssl checkpoint or a timm file, without classifier.

    Raises:
        UserError: No such file, or no weights in it.
    """
    weights = read_weights(path)
    weights = encoder_part(weights) or weights
    heads = ("head.fc.", "fc.", "classifier.", "head.")
    classifier = next(
        (p for p in heads if {k for k in weights if k.startswith(p)} == {p + "weight", p + "bias"}),
        None,
    )
    return {k: v for k, v in weights.items() if classifier is None or not k.startswith(classifier)}


def encoder_part(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights among those of a model, under timm's names."""
    return {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights that must fit completely.

    Args:
        model: The timm model.
        weights: Its weights by name.
        where: The file that they are from, for the message.

    Raises:
        UserError: Weights are missing, unexpected or of another shape; the message names them.
    """
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
