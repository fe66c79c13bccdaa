"""Checkpoints of a run: written whole or not at all, and found again."""

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

from ppssl.utils.errors import UserError

__all__ = [
    "LAST",
    "PREVIOUS",
    "RESUME_ENTRY",
    "AtomicCheckpointIO",
    "is_full",
    "newest_checkpoint",
]

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The newest checkpoint of a folder, and the one that it took the place of."""

RESUME_ENTRY = "resume"
"""What :class:`ppssl.checkpointing.resume.ResumeState` adds to a checkpoint."""


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


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk, the quota or the largest file's size is reached."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in full


def _keep_previous(path: Path) -> None:
    """A second name for the file that is about to be replaced; at no moment is there no ``last.ckpt``."""
    link = path.with_name(f"{PREVIOUS}.part")
    # Where there is none, or no hard links, only the last is kept.
    with contextlib.suppress(OSError):
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
