"""Image files, or bytes as of files: a source of them, and one with annotations."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.images import deep_range, read_frame, read_image, turn_upright
from ppssl.data.source import ImageSource, digest, path_text

__all__ = ["EncodedSource", "FileSource"]


class EncodedSource(ImageSource):
    """Images that are files, or bytes as of files."""

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

    def deep_range(self, i: int) -> int | None:
        """Largest value of image ``i`` by :func:`~ppssl.data.images.deep_range`."""
        return deep_range(self.encoded(i))


class FileSource(EncodedSource):
    """Images in one file each, with optional boxes and part points.

    Args:
        root: Folder that the fingerprint's paths are relative to.
        paths: Image files.
        labels: ``(N,)`` int64.
        classes: Class names.
        boxes: ``(N, 4)``: left, top, right, bottom of the object in pixels of the stored image, as pixel edges (0 is
            the left edge of the first pixel); NaN without annotation.
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
    ) -> None:
        self.root, self.paths = root, list(paths)
        self.labels, self.classes = labels, classes
        self.boxes, self.points = boxes, points

    def encoded(self, i: int) -> Path:
        """File of image ``i``."""
        return self.paths[i]

    def encoded_size(self, i: int) -> int:
        """Number of bytes of the file of image ``i``."""
        return self.paths[i].stat().st_size

    def name(self, i: int) -> str:
        """Path of image ``i``, as :func:`~ppssl.data.source.path_text`."""
        return path_text(self.paths[i])

    def fingerprint(self) -> str:
        """Hash of relative paths and file sizes: unchanged if the folder is moved, and no image is read."""
        names = (path.relative_to(self.root).as_posix() for path in self.paths)
        return digest(f"{name} {self._size(i)}" for i, name in enumerate(names))

    def _size(self, i: int) -> int | None:
        """Number of bytes of image ``i``; ``None`` if there is no such file: loading reports it."""
        try:
            return self.encoded_size(i)
        except OSError:
            return None

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
