"""Reading checkpoint and weight files, as plain data: nothing in them is executed, Lightning is not needed."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from ppssl.utils.config import instantiate
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand

__all__ = ["SCHEMA_VERSION", "check_schema", "read_checkpoint", "read_weights", "restore"]

SCHEMA_VERSION = 1

M = TypeVar("M")


def read_checkpoint(path: AnyPath) -> dict[str, Any]:
    """The content of a checkpoint of ppssl, with its tensors on the CPU.

    Raises:
        UserError: There is no such file, or it is damaged or not of ppssl.
    """
    path = expand(path)
    if not path.is_file():
        raise UserError(
            f"No such checkpoint: {path}. `ppssl fit` leaves `last.ckpt` below `trainer.default_root_dir`."
        )
    checkpoint = _load(path, "a checkpoint")
    if not isinstance(checkpoint, dict) or "ppssl" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of ppssl: it has no `ppssl` entry.")
    return checkpoint


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weight file by name: ``.safetensors``, a folder with ``model.safetensors``, or torch's format.

    Raises:
        UserError: There is no such file, or it is damaged or holds no weights.
    """
    path = expand(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"`pretrained`: no such file: {path}.")
    content = _load(path, "weights")
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise UserError(f"`pretrained`: {path} holds no weights by name, as of a `state_dict`.")
    return weights


def _load(path: Path, kind: str) -> Any:
    """The content of a file, which an error message calls a ``kind``."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged or foreign files
        raise UserError(
            f"{path} cannot be read as {kind}: it is damaged, or another file."
        ) from error


def check_schema(checkpoint: dict[str, Any]) -> None:
    """Refuse checkpoints of other programs and of newer versions.

    Raises:
        UserError: The checkpoint is not of ppssl, or its schema is newer.
    """
    if "ppssl" not in checkpoint:
        raise UserError("This is no checkpoint of ppssl: it has no `ppssl` entry.")
    version = checkpoint["ppssl"]["schema_version"]
    if version > SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint's schema {version} is newer than this ppssl's {SCHEMA_VERSION}: update it."
        )


def restore(cls: type[M], path: AnyPath, overrides: dict[str, Any]) -> M:
    """The model of a checkpoint with its weights.

    Args:
        cls: The class that the model must be of, or a base of it.
        path: The checkpoint.
        overrides: Constructor arguments that replace the saved ones.

    Raises:
        UserError: It cannot be read, names foreign classes, holds a model of another class, or its weights do not fit.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint["ppssl"]["model"]
    init_args = saved["init_args"] | {"pretrained": False} | overrides
    model = instantiate({"class_path": saved["class_path"], "init_args": init_args})
    if not isinstance(model, cls):
        raise UserError(f"{path} holds a `{type(model).__name__}`, not a `{cls.__name__}`.")
    model.on_load_checkpoint(checkpoint)  # type: ignore[attr-defined]  # a LightningModule
    try:
        model.load_state_dict(checkpoint["state_dict"])  # type: ignore[attr-defined]  # likewise
    except RuntimeError as error:
        raise UserError(f"{path} does not fit: {' '.join(str(error).split())}") from error
    return model
