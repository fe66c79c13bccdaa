"""Checkpoint files: plain data, written whole or not at all, read without executing anything, and found again."""

import contextlib
import errno
import os
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from fsspec.utils import get_protocol
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from ppssl.config import instantiate
from ppssl.errors import UserError

__all__ = [
    "LAST",
    "PREVIOUS",
    "RESUME_ENTRY",
    "SCHEMA_VERSION",
    "AtomicCheckpointIO",
    "check_schema",
    "is_full",
    "newest_checkpoint",
    "read_checkpoint",
    "restore",
]

SCHEMA_VERSION = 1

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The newest checkpoint of a folder, and the one that it took the place of."""

RESUME_ENTRY = "resume"
"""What :class:`ppssl.callbacks.resume.ResumeState` adds to a checkpoint."""

M = TypeVar("M")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The plain contents of a ppssl checkpoint, on the CPU; nothing in it is executed.

    Raises:
        UserError: No such file, torn, or not of ppssl.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No such checkpoint: {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on torn or foreign files
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason})."
        ) from error
    if not isinstance(checkpoint, dict) or "ppssl" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of ppssl: it has no `ppssl` entry.")
    return checkpoint


def check_schema(checkpoint: dict[str, Any]) -> None:
    """Raise :class:`UserError` where the checkpoint is not of ppssl, or of a newer one."""
    if "ppssl" not in checkpoint:
        raise UserError("This is no checkpoint of ppssl: it has no `ppssl` entry.")
    version = checkpoint["ppssl"]["schema_version"]
    if version > SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint's schema {version} is newer than this ppssl's {SCHEMA_VERSION}: update it."
        )


def restore(cls: type[M], path: str | Path, overrides: dict[str, Any]) -> M:
    """The model of a checkpoint, a ``cls``, with all its weights; ``overrides`` replace constructor arguments.

    Raises:
        UserError: It cannot be read, names foreign classes, holds another kind of model, or does not fit.
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


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is on the disk, whole.

    Lightning's own writes to the system's temporary folder first, and copies from there where that is another disk. A
    ``last.ckpt`` that is replaced stays as ``previous.ckpt``. What is no local file is left to Lightning.
    ``Trainer(plugins=[AtomicCheckpointIO()])``; the command line does so by itself.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write it.

        Raises:
            UserError: The disk is full; what was there before is still there.
        """
        if get_protocol(str(path)) != "file" or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            part.unlink(missing_ok=True)
            if is_full(error) or is_full(
                error.__context__
            ):  # torch's own error follows the system's
                raise UserError(
                    f"No space left to write {path}; the checkpoints before it are whole: make room, then go on "
                    "with `--resume auto`."
                ) from error
            raise
        if path.name == LAST:
            _keep_previous(path)
        part.replace(path)
        _sync_folder(path.parent)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk, the quota or the largest file's size is reached."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in full


def _keep_previous(path: Path) -> None:
    """A second name for the file that is about to be replaced; at no moment is there no ``last.ckpt``."""
    link = path.with_name(f"{PREVIOUS}.part")
    with contextlib.suppress(
        OSError
    ):  # there is none, or no hard links: then only the last is kept
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(path.with_name(PREVIOUS))


def _sync_folder(folder: Path) -> None:
    """Make the new name last beyond a power failure, where folders can be opened."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def newest_checkpoint(root: Path) -> Path | None:
    """The readable checkpoint with the highest global step below a folder; of equal ones the last written.

    Torn or damaged files are passed over with one warning; so is, silently, what is no checkpoint to go on from: other
    files of that name, and checkpoints that were written in the middle of a step.
    """
    found, torn = [], []
    for path in root.rglob("*.ckpt"):
        if not path.is_file():
            continue
        step = _global_step(path)
        if step is not None:
            found.append((step, path.stat().st_mtime, path))
        elif not zipfile.is_zipfile(path):
            torn.append(path)
    newest = None
    for *_, path in sorted(found, reverse=True):
        if _is_whole(path):
            newest = path
            break
        torn.append(path)
    if torn:
        rank_zero_warn(f"Passed over, torn or damaged: {', '.join(map(str, sorted(torn)))}.")
    return newest


def _global_step(path: Path) -> int | None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if content.get(RESUME_ENTRY, {}).get("mid_step"):
            return None
        return int(content["global_step"])
    except Exception:  # torch raises many types on torn or foreign files: not this one
        return None


def _is_whole(path: Path) -> bool:
    """Whether every part of the file has the checksum that was written with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
