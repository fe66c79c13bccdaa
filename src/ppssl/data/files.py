"""Images in files: which there are below a folder, and what is known of each."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.images import read_frame, read_image, turn_upright
from ppssl.data.source import ImageSource, digest
from ppssl.utils.errors import UserError

__all__ = ["EXTENSIONS", "FileSource", "find_images"]

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


class FileSource(ImageSource):
    """Images in files of their own.

    Args:
        root: The folder that names and fingerprint are relative to.
        paths: The files.
        labels: ``(N,)`` int64.
        classes: Class names.
        boxes: ``(N, 4)``: left, top, right, bottom of the object in pixels as stored, edges of pixels (0 is the left
            edge of the first one); NaN where it is not known.
        points: ``(N, P, 2)``: x and y of each part in such pixels; NaN where it cannot be seen.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        labels: np.ndarray,
        classes: list[str],
        *,
        boxes: np.ndarray | None = None,
        points: np.ndarray | None = None,
    ) -> None:
        self.root, self.paths = root, list(paths)
        self.labels, self.classes = labels, classes
        self.boxes, self.points = boxes, points

    def load(self, i: int) -> Image.Image:
        """Image ``i``, see :func:`~ppssl.data.images.read_image`."""
        return read_image(self.paths[i])

    def name(self, i: int) -> str:
        """The image's path; bytes that are no UTF-8 are shown as such."""
        return os.fsencode(self.paths[i]).decode("utf-8", "backslashreplace")

    def fingerprint(self) -> str:
        """Of relative paths and file sizes: it stays when the folder moves, and reads no image."""
        return digest(
            f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path in self.paths
        )

    def annotations(self, i: int) -> dict[str, Tensor]:
        """Where the object and its parts are in the upright image, as far as it is known.

        Returns:
            ``box``: ``(4,)`` float32, left, top, right, bottom in [0, 1]. ``points``: ``(P, 2)`` float32, x and y in
            [0, 1], NaN for a part that cannot be seen.
        """
        box = None if self.boxes is None or np.isnan(self.boxes[i]).any() else self.boxes[i]
        if box is None and self.points is None:
            return {}
        width, height, orientation = read_frame(self.paths[i])
        known = {}
        if box is not None:
            corners = turn_upright(box.reshape(2, 2) / (width, height), orientation)
            corners = np.sort(corners.clip(0, 1), axis=0)  # turned, left may have become right
            known["box"] = torch.tensor(corners.ravel(), dtype=torch.float32)
        if self.points is not None:
            places = turn_upright(self.points[i] / (width, height), orientation)
            known["points"] = torch.tensor(places.clip(0, 1), dtype=torch.float32)
        return known


def find_images(root: Path) -> list[Path]:
    """All images below a folder by their extension, sorted; hidden files and folders are left out.

    Links are followed, except one that leads to a folder it lies in: those would never end.
    """
    return sorted(_walk(root, frozenset()))


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    for entry in entries:
        path = folder / entry.name
        known: Path | os.DirEntry[str] = (
            path if entry.is_symlink() else entry
        )  # no stat of plain files
        if known.is_dir():
            yield from _walk(path, above | {here})
        elif path.suffix.lower() in EXTENSIONS and known.is_file():
            yield path
