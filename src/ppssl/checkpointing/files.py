"""Reading checkpoint and weight files, as plain data: nothing in them is executed, Lightning is not needed."""

import argparse
import inspect
import re
import zipfile
from pathlib import Path, PosixPath
from typing import Any, TypeVar

import torch

from ppssl.utils.config import argument_names, not_saved
from ppssl.utils.errors import UserError
from ppssl.utils.instantiate import construct, instantiate, resolve_class
from ppssl.utils.paths import AnyPath, expand

__all__ = [
    "SCHEMA_VERSION",
    "check_schema",
    "is_whole",
    "read_checkpoint",
    "read_plain",
    "read_weights",
    "refuse_damaged",
    "restore",
    "unreadable",
]

SCHEMA_VERSION = 1

M = TypeVar("M")

_OBJECT = {"class_path": str, "init_args": dict}
_ENTRY = {
    "schema_version": int,
    "model": _OBJECT,
    "encoder": {"backbone": str | dict | None, "kwargs": dict},
    "data": _OBJECT,
}
"""Types of what must be in the entry ``ppssl`` of a checkpoint; ``data`` may be null or missing."""

_MODULE = {"module": {"kind": str, "num_features": int, "mean": list, "std": list}}
"""Types of what must be in ``ppssl.encoder`` beside a backbone that is no name of timm."""

_PLAIN_CLASSES: list[Any] = [argparse.Namespace, PosixPath]
"""Classes without code of their own that public weight files hold beside the weights (the options of the training)."""


def read_checkpoint(path: AnyPath) -> dict[str, Any]:
    """The content of a checkpoint of ppssl, with its tensors on the CPU.

    Raises:
        UserError: There is no such file, or it is damaged or not of ppssl.
    """
    path = expand(path, "The path of the checkpoint")
    if not path.is_file():
        raise UserError(
            f"No such checkpoint: {path}. `ppssl fit` leaves `last.ckpt` below `trainer.default_root_dir`."
        )
    checkpoint = read_plain(path, "a checkpoint")
    check_schema(checkpoint, str(path))
    return checkpoint


def read_weights(path: Path) -> Any:
    """Content of a weight file: ``.safetensors``, a folder with ``model.safetensors``, or torch's format.

    Raises:
        UserError: There is no such file, or it is damaged or holds other than plain data.
    """
    path = expand(path, "The path of the weights")
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"`pretrained`: no such file: {path}.")
    with torch.serialization.safe_globals(_PLAIN_CLASSES):
        return read_plain(path, "weights")


def read_plain(path: Path, kind: str, *, mmap: bool = False) -> Any:
    """The content of a file of weights or a checkpoint, as plain data.

    Args:
        path: The file.
        kind: What an error message calls it.
        mmap: Whether tensors stay in the file until they are used.

    Raises:
        UserError: It is damaged or another file, or holds more than plain data.
    """
    if _is_compressed(path):
        raise UserError(
            f"{path} cannot be read as {kind}: it is compressed, as torch never does, and may be larger than memory."
        )
    refuse_damaged(path, kind)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many types on damaged or foreign files
        raise unreadable(path, kind, error) from error


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """The user error for what torch raises on a damaged or foreign file; ``kind`` is what the message calls it."""
    foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    reason = (
        f"it holds a `{foreign[1]}`, which could run code; save its `state_dict` alone"
        if foreign
        else "it is damaged, or another file"
    )
    return UserError(f"{path} cannot be read as {kind}: {reason}.")


def _is_compressed(path: Path) -> bool:
    """Whether a file is a zip archive with compressed entries: a small one may take any amount of memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # another kind of file, or a damaged one


def is_whole(path: Path) -> bool:
    """Whether a zip file, as torch writes, agrees with its checksums, which torch does not compare."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return False


def refuse_damaged(path: Path, kind: str) -> None:
    """Refuse a zip file whose content disagrees with its checksums.

    Raises:
        UserError: It does.
    """
    if zipfile.is_zipfile(path) and not is_whole(path):
        raise UserError(f"{path} cannot be read as {kind}: it is damaged (a checksum is wrong).")


def check_schema(checkpoint: Any, name: str = "This") -> None:
    """Refuse checkpoints of other programs and of newer versions, and those that lack a part.

    Args:
        checkpoint: The content of a checkpoint.
        name: What the message calls it.

    Raises:
        UserError: The checkpoint is not of ppssl, its schema is newer, or a part is missing or of another type.
    """
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("ppssl"), dict):
        raise UserError(f"{name} is no checkpoint of ppssl: it has no `ppssl` entry.")
    version = checkpoint["ppssl"].get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint's schema {version} is newer than this ppssl's {SCHEMA_VERSION}: update it."
        )
    wrong = _other_type(checkpoint["ppssl"], _ENTRY, "ppssl") or _wrong_module(checkpoint["ppssl"])
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict):
        wrong = "state_dict"
    elif bad := [key for key, value in weights.items() if not isinstance(value, torch.Tensor)]:
        wrong = f"state_dict.{bad[0]}"
    if wrong:
        raise UserError(
            f"{name} is no whole checkpoint of ppssl: `{wrong}` is missing or of another type. It was written by "
            "another program, or changed."
        )


def _wrong_module(entry: Any) -> str | None:
    """Name of the first part of what is told of a module that is missing or of another type."""
    encoder, name = entry["encoder"], "ppssl.encoder"
    told = encoder["backbone"]
    if isinstance(told, str):
        return None
    wrong = None if told is None else _other_type(told, _OBJECT, f"{name}.backbone")
    return wrong or _other_type(encoder, _MODULE, name)


def _other_type(content: Any, types: dict[str, Any], name: str) -> str | None:
    """Name of the first part of an entry that is missing or of another type than is listed."""
    for key, expected in types.items():
        value, part = content.get(key), f"{name}.{key}"
        if key == "data" and value is None:
            continue
        if key not in content or not isinstance(
            value, dict if isinstance(expected, dict) else expected
        ):
            return part
        if isinstance(expected, dict) and (wrong := _other_type(value, expected, part)):
            return wrong
    return None


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
    try:
        model = _rebuild(_class_of(saved, cls), saved, overrides)
    except (AttributeError, LookupError, TypeError) as error:
        raise UserError(
            f"{path}: the `{saved['class_path']}` cannot be made of the arguments in the checkpoint ({error})."
        ) from error
    if not isinstance(model, cls):
        raise UserError(f"{path} holds a `{type(model).__name__}`, not a `{cls.__name__}`.")
    model.on_load_checkpoint(checkpoint)  # type: ignore[attr-defined]  # a LightningModule
    model.load_state_dict(checkpoint["state_dict"])  # type: ignore[attr-defined]  # likewise
    return model


def _class_of(saved: dict[str, Any], cls: type) -> type:
    """Class of a saved model: ``cls`` if it has the same name, since a class may be defined in another module now."""
    name = saved["class_path"].rpartition(".")[2]
    if name == cls.__name__:
        return cls
    try:
        return resolve_class(saved["class_path"])
    except UserError as error:
        raise UserError(
            f"The checkpoint holds a `{saved['class_path']}`, which is not defined here: import it, or load with "
            f"that class, `{name}.load_from_checkpoint(path)`."
        ) from error


def _rebuild(cls: type, saved: dict[str, Any], overrides: dict[str, Any]) -> Any:
    """Model of a saved configuration, without weights."""
    names = argument_names(cls)
    init_args = {k: v for k, v in saved["init_args"].items() if k not in overrides}
    missing = {k: v for k, v in saved.get("not_saved", {}).items() if k not in overrides}
    for name, value in init_args.items():
        missing |= not_saved(value, name)
    call = f"`{cls.__name__}.load_from_checkpoint(path, {{}}=...)`"
    for name, kind in missing.items():
        raise UserError(
            f"`{name}` of the `{cls.__name__}` was a `{kind}`, which no checkpoint holds: give it, "
            f"{call.format(name.partition('.')[0])}."
        )
    arguments = (
        instantiate(init_args)
        | ({"pretrained": False} if "pretrained" in names else {})
        | overrides
    )
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"The checkpoint does not hold the arguments of this `{cls.__name__}`: {error}. Give what is missing, "
            f"{call.format('NAME')}."
        ) from error
    return construct(cls, arguments)
