"""Image files, or bytes as of files: a source of them, and one with annotations."""

import contextlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.images import deep_range, read_frame, read_image, turn_upright
from ppssl.data.source import UNREADABLE, ImageSource, digest
from ppssl.utils.errors import UserError

__all__ = ["EncodedSource", "FileSource"]

_SAMPLE = 16
"""Number of files whose range of values is checked."""


class EncodedSource(ImageSource):
    """Images that are files, or bytes as of files.

    Attributes:
        bit_depth: See :func:`~ppssl.data.images.read_image`.
    """

    bit_depth: int | None = None

    @abstractmethod
    def encoded(self, i: int) -> Path | bytes:
        """File of image ``i``, or its bytes.

        Raises:
            OSError: It cannot be read.
        """

    @abstractmethod
    def encoded_size(self, i: int) -> int:
        """Number of bytes of image ``i``, without reading it.

        Raises:
            OSError: There is no such file.
        """

    def load(self, i: int) -> Image.Image:
        """Load image ``i`` by :func:`~ppssl.data.images.read_image`."""
        return read_image(self.encoded(i), bit_depth=self.bit_depth)

    def load_reduced(self, i: int, short_side: int) -> Image.Image:
        """Load image ``i``; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is large enough."""
        return read_image(self.encoded(i), short_side=short_side, bit_depth=self.bit_depth)


class FileSource(EncodedSource):
    """Images in one file each, with optional boxes and part points.

    Args:
        root: Folder that the fingerprint's paths are relative to.
        paths: Image files.
        labels: ``(N,)`` int64.
        classes: Class names.
        boxes: ``(N, 4)``: left, top, right, bottom of the object in pixels of the stored image, as pixel edges (0 is
            the left edge of the first pixel); NaN without annotation.
        bit_depth: See :func:`~ppssl.data.images.read_image`.
        points: ``(N, P, 2)``: x and y of each part in the same coordinates; NaN for an invisible part.
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
        bit_depth: int | None = None,
    ) -> None:
        self.root, self.paths = root, list(paths)
        self.labels, self.classes = labels, classes
        self.boxes, self.points = boxes, points
        self.bit_depth = bit_depth

    def encoded(self, i: int) -> Path:
        """File of image ``i``."""
        return self.paths[i]

    def encoded_size(self, i: int) -> int:
        """Number of bytes of the file of image ``i``."""
        return self.paths[i].stat().st_size

    def name(self, i: int) -> str:
        """Path of image ``i``; bytes that are not UTF-8 are escaped."""
        return os.fsencode(self.paths[i]).decode("utf-8", "backslashreplace")

    def fingerprint(self) -> str:
        """Hash of relative paths, file sizes and bit depth: unchanged if the folder is moved, and no image is read."""
        depth = [] if self.bit_depth is None else [f"{self.bit_depth} bits"]
        files = (f"{p.relative_to(self.root).as_posix()} {p.stat().st_size}" for p in self.paths)
        return digest([*files, *depth])

    def check_bit_depth(self) -> None:
        """Check a sample of the files with more than 8 bits per channel: their values must not be nearly black.

        Raises:
            UserError: ``bit_depth`` is not set, and all values lie in the lower quarter of 16 bits.
        """
        if self.bit_depth is not None:
            return
        numbers = np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).round().astype(int)
        values: dict[Path, int] = {}
        for path in (self.paths[i] for i in numbers):
            with contextlib.suppress(*UNREADABLE):  # loading reports it
                value = deep_range(path)
                values |= {} if value is None else {path: value}
        if values and 0 < max(values.values()) < 2**14:
            brightest = max(values, key=lambda path: values[path])
            largest = values[brightest]
            raise UserError(
                f"{brightest} has more than 8 bits, and {largest} is its largest value, and that of {len(values)} such "
                f"images: nearly black. Set `data.bit_depth={max(largest.bit_length(), 8)}` for its range, or 16 if "
                "they are so dark."
            )

    def annotations(self, i: int) -> dict[str, Tensor]:
        """Box and part points of image ``i``, in the upright image.

        Returns:
            ``box``: ``(4,)`` float32, left, top, right, bottom in [0, 1]. ``points``: ``(P, 2)`` float32, x and y in
            [0, 1], NaN for an invisible part. Each is absent without annotation.
        """
        box = None if self.boxes is None else self.boxes[i]
        if box is not None and np.isnan(box).any():
            box = None
        if box is None and self.points is None:
            return {}
        width, height, orientation = read_frame(self.paths[i])
        annotations = {}
        if box is not None:
            corners = turn_upright(box.reshape(2, 2) / (width, height), orientation)
            corners = np.sort(corners.clip(0, 1), axis=0)  # a rotation may swap left and right
            annotations["box"] = torch.tensor(corners.ravel(), dtype=torch.float32)
        if self.points is not None:
            places = turn_upright(self.points[i] / (width, height), orientation)
            annotations["points"] = torch.tensor(places.clip(0, 1), dtype=torch.float32)
        return annotations
