"""Checkpoint files that are written whole or not at all, and the search for the newest one."""

import contextlib
import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from fsspec.utils import get_protocol
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from ppssl.checkpointing.files import is_whole, refuse_damaged, unreadable
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand

__all__ = [
    "LAST",
    "PREVIOUS",
    "RESUME_ENTRY",
    "AtomicCheckpointIO",
    "is_full",
    "newest_checkpoint",
    "remove_unfinished",
]

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""File names of a folder's newest checkpoint and of the one that it replaced."""

RESUME_ENTRY = "resume"
"""Name of the entry that :class:`ppssl.checkpointing.resume.ResumeState` adds to a checkpoint."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name in its folder, and renames it once all of it is on the disk.

    Lightning's own writes to the system's temporary folder and copies from there if that is another disk. A
    ``last.ckpt`` that is replaced stays as ``previous.ckpt``. Other than local files are left to Lightning. Use it as
    ``Trainer(plugins=[AtomicCheckpointIO()])``; the command line uses it by default.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            UserError: The disk is full; the files of before are as they were.
        """
        if get_protocol(str(path)) != "file" or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = expand(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            part.unlink(missing_ok=True)
            # torch's own error follows the system's
            if is_full(error) or is_full(error.__context__):
                raise UserError(
                    f"No space left to write {path}; the checkpoints before it are whole: make room, then go on "
                    "with `--resume auto`."
                ) from error
            raise
        if path.name == LAST:
            _keep_previous(path)
        part.replace(path)
        _sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, and compare its checksums first, which torch does not.

        Raises:
            UserError: A local file is damaged, or no checkpoint.
        """
        if get_protocol(str(path)) != "file":
            return super().load_checkpoint(path, map_location, weights_only)
        refuse_damaged(expand(path), "a checkpoint")
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except (FileNotFoundError, PermissionError, MemoryError):
            raise
        except Exception as error:  # torch raises many types, also of the system's errors
            raise unreadable(expand(path), "a checkpoint", error) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left half-written in its folder of checkpoints."""
    for part in folder.glob("*.ckpt.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def is_full(error: BaseException | None) -> bool:
    """Whether an error means that the disk is full, or a quota or file size limit is reached."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in full


def _keep_previous(path: Path) -> None:
    """Keep ``last.ckpt`` as ``previous.ckpt`` too, before it is replaced; at no moment is it missing."""
    link = path.with_name(f"{PREVIOUS}.part")
    with contextlib.suppress(OSError):  # there is no last one, or the disk has no hard links
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(path.with_name(PREVIOUS))


def _sync_folder(folder: Path) -> None:
    """Write a folder's file names to the disk, so that a power failure does not undo a renaming."""
    with contextlib.suppress(OSError):  # some systems cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def newest_checkpoint(root: Path) -> Path | None:
    """The readable checkpoint with the highest global step below a folder; of several, the last written.

    Torn or damaged files are passed over with one warning. Without a warning, so are files that are no checkpoints of a
    run, and checkpoints that were written in the middle of a step.
    """
    candidates, damaged = [], []
    for path in expand(root).rglob("*.ckpt"):
        if not path.is_file():
            continue
        step = _global_step(path)
        if step is not None:
            candidates.append((step, path.stat().st_mtime, path))
        elif not zipfile.is_zipfile(path):
            damaged.append(path)
    newest = None
    for *_, path in sorted(candidates, reverse=True):
        if is_whole(path):
            newest = path
            break
        damaged.append(path)
    if damaged:
        rank_zero_warn(f"Passed over, torn or damaged: {', '.join(map(str, sorted(damaged)))}.")
    return newest


def _global_step(path: Path) -> int | None:
    """The global step of a checkpoint that a run can resume from; ``None`` for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if content.get(RESUME_ENTRY, {}).get("mid_step"):
            return None
        return int(content["global_step"])
    except Exception:  # torch raises many types on damaged or foreign files
        return None
