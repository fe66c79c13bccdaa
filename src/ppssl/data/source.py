"""Base class of image sources: numbered images of one split, with labels."""

import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image
from torch import Tensor

from ppssl.data.images import squash
from ppssl.utils.errors import UserError

__all__ = ["UNKNOWN", "UNREADABLE", "ImageSource", "PassedOver", "digest", "path_text"]

PassedOver = dict[str, tuple[int, str]]
"""What was passed over: by reason, how many files, and one of them."""

UNKNOWN = -1
"""Label of an image whose class is unknown."""

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for files that are not images or have a damaged header."""

_SAMPLE = 16
"""Number of images whose range of values is checked."""


class ImageSource(ABC):
    """Images of one split, accessed by number.

    Attributes:
        labels: ``(N,)`` int64, 0-based, ``UNKNOWN`` for an image without label.
        classes: Class names; ``labels`` index this list. Empty if no label is known.
        nuisance_names: Names of the columns of :meth:`nuisances`; empty if no nuisance value is known.
        passed_over: Files that are no images of this source, by reason.
        squash: Whether images are squashed to squares (:func:`ppssl.data.images.squash`); set by the data module.
        bit_depth: Bits that values of 16 or 32 bits have (:func:`~ppssl.data.images.read_image`), set likewise.
    """

    labels: np.ndarray
    classes: list[str]
    nuisance_names: tuple[str, ...] = ()
    passed_over: Mapping[str, tuple[int, str]] = MappingProxyType({})
    squash: bool = False
    bit_depth: int | None = None

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

    def deep_range(self, i: int) -> int | None:
        """Largest value of image ``i``, of 65,535, if it has more than 8 bits per channel; by default ``None``."""
        return None

    def check_bit_depth(self) -> None:
        """Check a sample of the images with more than 8 bits per channel: their values must not be nearly black.

        Raises:
            UserError: ``bit_depth`` is not set, and all values lie in the lower quarter of 16 bits.
        """
        if self.bit_depth is not None:
            return
        values: dict[int, int] = {}
        for i in np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).round().astype(int):
            with contextlib.suppress(*UNREADABLE, UserError):  # loading reports it
                value = self.deep_range(i)
                values |= {} if value is None else {i: value}
        if values and 0 < max(values.values()) < 2**14:
            brightest = max(values, key=lambda i: values[i])
            largest = values[brightest]
            raise UserError(
                f"{self.name(brightest)} has more than 8 bits, and {largest} is its largest value, and that of "
                f"{len(values)} such images: nearly black. Set `data.bit_depth={max(largest.bit_length(), 8)}` for its "
                "range, or 16 if they are so dark."
            )

    def name(self, i: int) -> str:
        """Name of image ``i`` for messages: its path if it is a file."""
        return f"image {i}"

    def fingerprint(self) -> str:
        """Hash that tells sets of images apart; by default of their names, so that none is read."""
        return digest(self.name(i) for i in range(len(self)))

    def served(self) -> str:
        """Hash that tells sets of images apart as models see them: :meth:`fingerprint`, squashed or not, bit depth."""
        changes = ["squashed"] if self.squash else []
        changes += [] if self.bit_depth is None else [f"{self.bit_depth} bits"]
        told = self.fingerprint()
        return digest([told, *changes]) if changes else told

    def nuisances(self) -> np.ndarray:
        """Nuisance values of all images, independent of the class: ``(N, K)``, columns as in ``nuisance_names``."""
        return np.empty((len(self), len(self.nuisance_names)), dtype=np.float32)

    def annotations(self, i: int) -> dict[str, Tensor]:
        """Annotations of image ``i`` (boxes, part masks, nuisance values) by name; empty by default."""
        return {}


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as text that every file takes: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text, its first 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return sha.hexdigest()[:16]
