"""The classes that all splits of a data set share, although each split may list others, or in another order."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ppssl.data.sets.rows import Rows, number_labels
from ppssl.data.source import UNKNOWN
from ppssl.utils.errors import UserError

__all__ = ["ClassList"]


class ClassList:
    """The classes of the training images, by which the labels of all splits are numbered.

    A split that names its classes is numbered by these names, compared in Unicode's normal form NFC, whatever its own
    numbers are.

    Args:
        names: Class names in label order; ``None``: those of the training images.
    """

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self.names = None if names is None else list(names)
        self._renamed: list[str] = []

    def number(self, rows: Rows, split: str) -> np.ndarray:
        """Labels of a split as numbers ``(N,)`` int64; that of the training images comes first.

        Raises:
            UserError: A label is neither number nor name, or is of a class that is none of these.
        """
        count = len(rows.images)
        if rows.names is None:
            labels, self.names = number_labels(rows.labels, count, self.names, split)
            return labels
        labels, own = number_labels(rows.labels, count, rows.names, split)
        if self.names is None:
            self.names = own
        if split == "train" and _all_others(own, self.names):
            self._renamed = own
        if own in (self.names, self._renamed):
            return labels
        return self._by_name(labels, own, split)

    def _by_name(self, labels: np.ndarray, own: list[str], split: str) -> np.ndarray:
        classes = self.names or []
        places = {_text(name): i for i, name in enumerate(self._renamed)}
        places |= {_text(name): i for i, name in enumerate(classes)}
        for name, count in Counter(map(_text, classes)).items():
            if count > 1:
                del places[name]
        found = [places.get(_text(name), UNKNOWN) for name in own]
        numbers = np.array([*found, UNKNOWN], dtype=np.int64)[labels]  # the last is that of UNKNOWN
        foreign = (labels != UNKNOWN) & (numbers == UNKNOWN)
        if foreign.any():
            name = own[labels[foreign.argmax()]]
            raise UserError(
                f"`{split}` has images of class {name!r}, which is none of the {len(classes)} classes: {classes[:5]}. "
                "Rename or remove it, add training images of it, or list all classes as `class_names`."
            )
        return numbers


def _all_others(own: list[str], names: list[str]) -> bool:
    """Whether names that are given replace those of the data set: there are enough, and none is one of its own."""
    return len(own) <= len(names) and not {*map(_text, own)} & {*map(_text, names)}


def _text(name: object) -> str:
    return unicodedata.normalize("NFC", str(name))
