"""Base class of image sources: numbered images of one split, with labels."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image
from torch import Tensor

from ppssl.data.images import squash
from ppssl.utils.errors import UserError

__all__ = ["UNKNOWN", "UNREADABLE", "ImageSource", "PassedOver", "digest"]

PassedOver = dict[str, tuple[int, str]]
"""What was passed over: by reason, how many files, and one of them."""

UNKNOWN = -1
"""Label of an image whose class is unknown."""

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for files that are not images or have a damaged header."""


class ImageSource(ABC):
    """Images of one split, accessed by number.

    Attributes:
        labels: ``(N,)`` int64, 0-based, ``UNKNOWN`` for an image without label.
        classes: Class names; ``labels`` index this list. Empty if no label is known.
        nuisance_names: Names of the columns of :meth:`nuisances`; empty if no nuisance value is known.
        passed_over: Files that are no images of this source, by reason.
        squash: Whether images are squashed to squares (:func:`ppssl.data.images.squash`); set by the data module.
    """

    labels: np.ndarray
    classes: list[str]
    nuisance_names: tuple[str, ...] = ()
    passed_over: Mapping[str, tuple[int, str]] = MappingProxyType({})
    squash: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, i: int) -> Image.Image:
        """Load image ``i``, upright, in mode RGB.

        Raises:
            OSError: The image cannot be read.
            ValueError: The image cannot be read.
        """

    def load_reduced(self, i: int, short_side: int) -> Image.Image:
        """Load image ``i``, possibly at a reduced size, for training views; by default :meth:`load`.

        Args:
            i: Number of the image.
            short_side: Pixels that the short side of the result has at least, if the original has.
        """
        return self.load(i)

    def serve(self, i: int, short_side: int | None = None) -> Image.Image:
        """Load image ``i`` as models see it: a square, if this source squashes.

        Args:
            i: Number of the image.
            short_side: Pixels that the short side needs at least (:meth:`load_reduced`); ``None``: full size.
        """
        image = self.load(i) if short_side is None else self.load_reduced(i, short_side)
        return squash(image) if self.squash else image

    def read(self, i: int) -> Image.Image:
        """Load image ``i`` by :meth:`serve`, and turn a failure into a user error.

        Raises:
            UserError: The image cannot be read; the message has its name.
        """
        try:
            return self.serve(i)
        except UNREADABLE as error:
            reason = str(error).split("\n")[0].rstrip(".")
            raise UserError(f"Cannot read {self.name(i)}: {reason}.") from error

    def name(self, i: int) -> str:
        """Name of image ``i`` for messages: its path if it is a file."""
        return f"image {i}"

    def fingerprint(self) -> str:
        """Hash that changes with the images; by default a hash of their names."""
        return digest(self.name(i) for i in range(len(self)))

    def served(self) -> str:
        """Hash that changes with the images as models see them."""
        told = self.fingerprint()
        return digest([told, "squashed"]) if self.squash else told

    def nuisances(self) -> np.ndarray:
        """Nuisance values of all images, independent of the class: ``(N, K)``, columns as in ``nuisance_names``."""
        return np.empty((len(self), len(self.nuisance_names)), dtype=np.float32)

    def annotations(self, i: int) -> dict[str, Tensor]:
        """Annotations of image ``i`` (boxes, part masks, nuisance values) by name; empty by default."""
        return {}


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text, its first 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return sha.hexdigest()[:16]
