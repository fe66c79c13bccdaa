"""What a data set is, before any batching: numbered images with labels."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
from PIL import Image
from torch import Tensor

from ppssl.utils.errors import UserError

__all__ = ["UNKNOWN", "UNREADABLE", "ImageSource", "digest"]

UNKNOWN = -1
"""The label of an image whose class is not known."""

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on files that are no images, or whose header was hit."""


class ImageSource(ABC):
    """Images of one split, by number.

    Attributes:
        labels: ``(N,)`` int64, 0-based, ``UNKNOWN`` where there is none.
        classes: Class names; ``labels`` index this list. Empty where no label is known.
        nuisance_names: What :meth:`nuisances` tells; empty where nothing is known.
    """

    labels: np.ndarray
    classes: list[str]
    nuisance_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, i: int) -> Image.Image:
        """Image ``i`` as it is, upright, in mode RGB. Raises ``OSError`` or ``ValueError`` if it cannot be read."""

    def read(self, i: int) -> Image.Image:
        """Image ``i`` by :meth:`load`.

        Raises:
            UserError: It cannot be read, with its name.
        """
        try:
            return self.load(i)
        except UNREADABLE as error:
            reason = str(error).split("\n")[0].rstrip(".")
            raise UserError(f"Cannot read {self.name(i)}: {reason}.") from error

    def name(self, i: int) -> str:
        """What to call image ``i`` in a message: its path where it has one."""
        return f"image {i}"

    def fingerprint(self) -> str:
        """A hash that is another one when the images are: of their names, unless a subclass knows better."""
        return digest(self.name(i) for i in range(len(self)))

    def nuisances(self) -> np.ndarray:
        """What varies from image to image and says nothing of the class, ``(N, K)``, by ``nuisance_names``."""
        return np.empty((len(self), len(self.nuisance_names)), dtype=np.float32)

    def annotations(self, i: int) -> dict[str, Tensor]:
        """What else is known of image ``i`` (boxes, part masks, nuisance values), by name; empty by default."""
        return {}


def digest(lines: Iterable[str]) -> str:
    """16 hexadecimal digits of the SHA-256 of lines of text."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return sha.hexdigest()[:16]
