"""Search for image files below a folder, with an account of the files that are passed over."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ppssl.data.source import UNREADABLE, PassedOver
from ppssl.utils.errors import UserError

__all__ = ["CONVERT", "Scan", "has_images", "image_endings", "scan_images"]

CONVERT = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".exr", ".hdr", ".dcm", ".npy"}
    | {".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
"""Endings of images that Pillow does not read unless a plugin for it is registered: a folder of them is a mistake."""

_NOT_DECODED = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF"})
"""Formats that Pillow identifies, and decodes by another program or not at all."""


@dataclass
class Scan:
    """Image files below a folder, and what was passed over.

    Attributes:
        paths: Image files, sorted.
        passed_over: By reason, how many files, and the first of them.
    """

    paths: list[Path] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=dict)


@functools.cache
def image_endings() -> frozenset[str]:
    """Endings of file names, in lower case, of all formats that Pillow and its registered plugins decode."""
    Image.init()
    formats = (set(Image.OPEN) | {"MPO"}) - _NOT_DECODED
    return frozenset(
        ending.lower() for ending, kind in Image.registered_extensions().items() if kind in formats
    )


def scan_images(root: Path) -> Scan:
    """Find all images below a folder by their ending, in any case; a file without ending is opened to see what it is.

    Hidden files and folders are passed over. Links are followed, except a link to a folder that contains it, which
    would recurse forever.

    Raises:
        UserError: A folder cannot be read.
    """
    scan = Scan()
    firsts: dict[str, list[Path]] = {}
    for path, reason in _walk(root, frozenset()):
        if reason is None:
            scan.paths.append(path)
        else:
            firsts.setdefault(reason, []).append(path)
    scan.paths.sort()
    for reason, paths in sorted(firsts.items(), key=lambda item: (-len(item[1]), item[0])):
        scan.passed_over[reason] = (len(paths), min(paths).relative_to(root).as_posix())
    return scan


def has_images(root: Path) -> bool:
    """Whether there is an image below a folder; the search ends at the first."""
    return any(reason is None for _, reason in _walk(root, frozenset()))


def _walk(folder: Path, parents: frozenset[str]) -> Iterator[tuple[Path, str | None]]:
    """All files below a folder, and the reason why one is passed over."""
    real_path = os.path.realpath(folder)
    if real_path in parents:
        return
    try:
        with os.scandir(folder) as iterator:
            entries = list(iterator)
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    for entry in entries:
        path = folder / entry.name
        # A DirEntry knows its type without a stat call; a link needs one.
        typed: Path | os.DirEntry[str] = path if entry.is_symlink() else entry
        if entry.name.startswith("."):
            yield path, "hidden"
        elif typed.is_dir():
            yield from _walk(path, parents | {real_path})
        else:
            yield path, _reason(path, is_file=typed.is_file())


def _reason(path: Path, *, is_file: bool) -> str | None:
    """Why a file is passed over; ``None`` for an image."""
    ending = path.suffix.lower()
    if ending and ending not in image_endings():
        return ending
    if not is_file:
        return "broken links" if path.is_symlink() else "no files"
    return None if ending or _is_image(path) else "no image, without ending"


def _is_image(path: Path) -> bool:
    """Whether Pillow knows the format by the file's header; no pixel is decoded."""
    try:
        with Image.open(path) as image:
            return image.format not in _NOT_DECODED
    except UNREADABLE:
        return False
