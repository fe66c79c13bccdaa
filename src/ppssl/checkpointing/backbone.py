"""The backbone of an encoder in a checkpoint: a name of timm, or what can be told of a module."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ppssl.checkpointing.encoder_weights import create_model
from ppssl.utils.config import NotSaved, plain_config
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.instantiate import instantiate
from ppssl.utils.module_encoder import ModuleEncoder, as_encoder

__all__ = [
    "argument_of",
    "backbone_of_checkpoint",
    "describe",
    "encoder_name",
    "make_backbone",
    "model_of_checkpoint",
    "normalisation",
    "restore_input",
]

LOAD = (
    "`load_encoder(path, backbone=...)`, whose encoder `evaluate`, `embed` and `duplicates` take in place of the path, "
    "or `ppssl.export(path, to, out, backbone=...)`"
)
"""The calls that take a module that cannot be told."""


def make_backbone(
    backbone: str | nn.Module, image_size: int | None, kwargs: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """Create the model of a name of timm, or give a module the interface of timm's models.

    Raises:
        UserError: No such model, arguments that it does not take, no weights to be had; arguments for a module.
    """
    if isinstance(backbone, str):
        return create_model(backbone, image_size, kwargs, pretrained)
    if not isinstance(backbone, nn.Module):
        raise ArgumentError(
            f"`backbone` must be the name of a timm model or a torch.nn.Module, got a `{type(backbone).__name__}`."
        )
    if kwargs:
        raise ArgumentError(
            f"`backbone_kwargs` {dict(kwargs)} are arguments of a timm model, and `backbone` is a "
            f"`{type(backbone).__name__}`: give them to it, and leave these out (`--model.backbone_kwargs=null`)."
        )
    return as_encoder(backbone)


def describe(
    backbone: str | nn.Module, model: Any, image_size: int | None, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Description of an encoder as plain data, from which :func:`model_of_checkpoint` makes it again.

    Args:
        backbone: Name or module.
        model: The model that was made of it; of a module its normalisation and size are told too.
        image_size: Height and width in pixels, or ``None``.
        kwargs: More arguments of a timm model.
    """
    spec: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "kwargs": dict(kwargs)}
    if isinstance(backbone, str):
        return spec
    whole = backbone.module if isinstance(backbone, ModuleEncoder) else backbone
    told = plain_config(whole)
    cfg = model.pretrained_cfg
    module = {"kind": type(whole).__name__, "num_features": int(model.num_features)}
    module |= {name: [float(value) for value in cfg[name]] for name in ("mean", "std")}
    return spec | {"backbone": None if isinstance(told, NotSaved) else told, "module": module}


def argument_of(spec: Mapping[str, Any]) -> Any:
    """What a model's configuration holds as its ``backbone``: a name, a configuration, or that it is not saved."""
    if spec["backbone"] is None:
        return NotSaved(spec["module"]["kind"])
    return spec["backbone"]


def backbone_of_checkpoint(spec: Mapping[str, Any], call: str) -> str | nn.Module:
    """The backbone that a description tells of: a name, or a module with weights that are still to be loaded.

    Args:
        spec: A description (:func:`describe`).
        call: The call that takes the module where it cannot be told, for the message, in backquotes.

    Raises:
        UserError: The module has to be given, or its class is foreign.
    """
    told = spec["backbone"]
    if isinstance(told, str):
        return told
    if told is None:
        raise UserError(
            f"The encoder was made of a `{spec['module']['kind']}`, whose arguments no checkpoint holds: give it, "
            f"{call}, or derive its class from `ppssl.Configurable` too before it is trained."
        )
    module: Any = instantiate(told, "backbone")
    module.pretrained_cfg = {name: spec["module"][name] for name in ("mean", "std")}
    return module


def model_of_checkpoint(spec: Mapping[str, Any], backbone: nn.Module | None = None) -> nn.Module:
    """Create the model that a description tells of, with weights that are still to be loaded.

    Args:
        spec: A description (:func:`describe`).
        backbone: The module; ``None``: as described.

    Raises:
        UserError: The module is neither told nor given, or its class is foreign; as :func:`make_backbone`.
    """
    given = backbone_of_checkpoint(spec, LOAD) if backbone is None else backbone
    model = make_backbone(given, spec["image_size"], spec["kwargs"], pretrained=False)
    restore_input(model, spec)
    return model


def encoder_name(spec: Mapping[str, Any]) -> str:
    """Name of a described encoder for people: timm's, or the class of a module."""
    told = spec["backbone"]
    return told if isinstance(told, str) else str(spec["module"]["kind"])


def restore_input(model: Any, spec: Mapping[str, Any]) -> None:
    """Give a model the normalisation and the length of the embedding that a description of a module tells."""
    told = spec.get("module")
    if told:
        model.pretrained_cfg = dict(model.pretrained_cfg) | {n: told[n] for n in ("mean", "std")}
        model.num_features = told["num_features"]


def normalisation(spec: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input of a described encoder."""
    cfg: Any = spec.get("module") or model_of_checkpoint(spec).pretrained_cfg
    return tuple(cfg["mean"]), tuple(cfg["std"])
