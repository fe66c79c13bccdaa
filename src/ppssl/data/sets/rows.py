"""Rows of data sets that exist as objects: where the images are, and what the labels are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset
from torchvision.datasets import DatasetFolder
from torchvision.datasets.folder import default_loader

from ppssl.data.source import UNKNOWN, UNREADABLE
from ppssl.utils.errors import UserError

__all__ = ["Rows", "are_files", "image_of_row", "label_of_row", "number_labels", "open_rows"]

_IMAGE_KEYS = ("image", "img", "pixel_values", "path", "file", "filename")
_LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "cls")
_MOST_CLASSES = 1_000_000
"""Classes that numbers alone may name: above it a number is rather an identifier."""
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")


@dataclass(frozen=True)
class Rows:
    """Rows of a data set.

    Attributes:
        images: Anything with ``images[i]``: images, or rows that hold one (:func:`image_of_row`).
        labels: Labels of all rows, as they are; ``None`` if there are none.
        names: Class names in label order; ``None`` if they are not known.
        has_columns: Whether images and labels have names, so that one can be chosen.
    """

    images: Any
    labels: Iterable[Any] | None = None
    names: Sequence[str] | None = None
    has_columns: bool = False


def open_rows(dataset: Any, split: str, image: str | None, label: str | None) -> Rows:
    """Open a data set of any kind that :class:`~ppssl.data.sets.any_dataset.DatasetDataModule` takes.

    Args:
        dataset: The data set.
        split: Its split, for messages.
        image: Name of the images' column, or ``None``.
        label: Name of the labels' column, or ``None``.

    Raises:
        UserError: It is of another kind, is empty, or has no such column.
    """
    if isinstance(dataset, DatasetFolder) and _is_plain(dataset):
        paths = [path for path, _ in dataset.samples]
        return Rows(paths, dataset.targets, dataset.classes)
    if isinstance(dataset, Mapping) and "class_path" in dataset:
        arguments = ", ".join(f"{k}={v!r}" for k, v in dict(dataset.get("init_args", {})).items())
        raise UserError(
            f"`{split}` cannot be made as `{dataset['class_path']}({arguments})`: there is no such class in a module "
            "of the working folder or the environment, or it takes other arguments."
        )
    columns = getattr(dataset, "column_names", getattr(dataset, "columns", None))
    columns = None if isinstance(dataset, Dataset) else columns
    columns = list(dataset) if isinstance(dataset, Mapping) else columns
    if columns is not None and hasattr(dataset, "__len__"):
        return _open_table(dataset, list(columns), split, image, label)
    other = isinstance(dataset, str | bytes | Tensor | IterableDataset | DataLoader)
    if other or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UserError(
            f"`{split}` must be a data set with `len(d)` and `d[i]`, a list of files or a table, got a "
            f"`{type(dataset).__name__}`. For a folder use FolderDataModule; of a loader give its data set; of a "
            "stream, as Hugging Face's, load all rows."
        )
    if not len(dataset):
        raise UserError(f"`{split}` is empty: a `{type(dataset).__name__}` of length 0.")
    return Rows(dataset) if are_files(dataset) else _open_items(dataset, split, image, label)


def _open_items(dataset: Any, split: str, image: str | None, label: str | None) -> Rows:
    names = _class_names(dataset, split)
    has_columns = (image is not None or label is not None) and _has_columns(dataset[0])
    chosen = (has_columns and label is not None) or _changes_labels(dataset)
    for attribute in () if chosen else _LABEL_ATTRIBUTES:
        labels = getattr(dataset, attribute, None)
        if isinstance(labels, Sequence | np.ndarray | Tensor) and len(labels) == len(dataset):
            return Rows(dataset, labels, names, has_columns)
    numbers = track(range(len(dataset)), f"Reading the labels of {split}", transient=True)
    found = [_label_at(dataset, i, label) for i in numbers]
    if isinstance(dataset, list | tuple) and all(isinstance(x, list | tuple) for x in dataset):
        dataset = [x[0] for x in dataset]
    return Rows(dataset, found, names, has_columns)


def _class_names(dataset: Any, split: str) -> Sequence[str] | None:
    """Class names that a data set knows, or those that it is a part or the sum of."""
    if isinstance(dataset, Subset | ConcatDataset):
        parts = [dataset.dataset] if isinstance(dataset, Subset) else dataset.datasets
        each = [_class_names(part, split) for part in parts]
        others = [names for names in each[1:] if names != each[0]]
        if others and each[0] is not None and others[0] is not None:
            raise UserError(
                f"`{split}` joins data sets of different classes, {list(each[0])[:3]} and {list(others[0])[:3]}: a "
                "label means another class in each. Make them one folder, or give images without labels."
            )
        return None if others else each[0]
    names = None if _changes_labels(dataset) else getattr(dataset, "classes", None)
    return list(names) if isinstance(names, Sequence) and not isinstance(names, str) else None


def _changes_labels(dataset: Any) -> bool:
    """Whether a data set of torchvision changes its labels, so that neither its list nor its names hold."""
    return getattr(dataset, "target_transform", None) is not None


def _is_plain(dataset: DatasetFolder) -> bool:
    """Whether an image of a folder is its file: no transform and no reader of its own."""
    return dataset.transforms is None and dataset.loader is default_loader


def are_files(images: Any) -> bool:
    """Whether images are a list of paths."""
    return isinstance(images, list | tuple) and all(
        isinstance(image, str | os.PathLike) for image in images
    )


def _open_table(
    table: Any, columns: list[str], split: str, image: str | None, label: str | None
) -> Rows:
    image = _column(columns, image, _IMAGE_KEYS)
    label = _column(columns, label, _LABEL_KEYS)
    if image is None:
        raise UserError(f"`{split}` has no column of images among {columns}: set `image_column`.")
    labels = None if label is None else _values(table[label])
    features = getattr(table, "features", None)
    if features is not None:  # Hugging Face decodes a row when it is asked for it
        return Rows(table, labels, getattr(features.get(label), "names", None), has_columns=True)
    return Rows(_values(table[image]), labels, has_columns=True)


def _column(columns: list[str], given: str | None, known: Sequence[str]) -> str | None:
    if given is not None and given not in columns:
        raise UserError(f"There is no column {given!r} among {columns}.")
    return given or next((name for name in known if name in columns), None)


def _values(column: Any) -> list[Any]:
    """Values of a column of pyarrow, pandas or Hugging Face, or of a list."""
    convert = getattr(column, "to_pylist", getattr(column, "tolist", None))
    return list(column) if convert is None else convert()


def image_of_row(row: Any, column: str | None) -> Any:
    """The image of a row: of a dict by its name, of a pair the first, else the row itself."""
    if _has_columns(row):
        name = _column(list(row), column, _IMAGE_KEYS)
        if name is None:
            raise UserError(f"There is no image among {list(row)}: set `image_column`.")
        return row[name]
    return row[0] if isinstance(row, list | tuple) and row else row


def _has_columns(row: Any) -> bool:
    """Whether a row is a dict of columns, and no image as Hugging Face encodes it."""
    return isinstance(row, Mapping) and not row.keys() <= {"bytes", "path"}


def label_of_row(row: Any, column: str | None) -> Any:
    """The label of a row: of a dict by its name, of a pair the second; ``None`` if it has none."""
    if isinstance(row, Mapping):
        name = _column(list(row), column, _LABEL_KEYS)
        return None if name is None else row[name]
    return row[1] if isinstance(row, list | tuple) and len(row) > 1 else None


def _label_at(dataset: Any, i: int, column: str | None) -> Any:
    try:
        return label_of_row(dataset[i], column)
    except UNREADABLE:  # loading reports it
        return None


def number_labels(
    labels: Iterable[Any] | None, count: int, classes: Sequence[str] | None, split: str
) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers ``(N,)`` int64, and the class names.

    Args:
        labels: Numbers or names; ``None``, NaN, ``pandas.NA`` and numbers below 0 are unknown. ``None``: none is known.
        count: N.
        classes: Class names in label order; ``None``: sorted names, or ``class 0`` and so on.
        split: The split, for messages.

    Raises:
        UserError: A label is neither, or none of the classes.
    """
    values = [None] * count if labels is None else [_plain(label, split) for label in labels]
    names = {value for value in values if isinstance(value, str)}
    numbers = {value for value in values if isinstance(value, int)}
    if names and numbers:
        raise UserError(f"The labels of `{split}` are numbers and names: give one kind.")
    if classes is None and max(numbers, default=0) >= _MOST_CLASSES:
        raise UserError(
            f"`{split}` has the label {max(numbers)}: number the classes from 0, or give names."
        )
    if classes is None:
        classes = sorted(names) or [f"class {i}" for i in range(max(numbers, default=-1) + 1)]
    number_of: dict[Any, int] = {name: i for i, name in enumerate(classes)} if names else {}
    number_of |= {i: i for i in range(len(classes))}
    foreign = [value for value in values if value is not None and value not in number_of]
    if foreign:
        raise UserError(
            f"`{split}` has the label {foreign[0]!r}, which is none of the {len(classes)} classes: {list(classes)[:5]}."
        )
    found = [UNKNOWN if value is None else number_of[value] for value in values]
    return np.array(found, dtype=np.int64), list(classes)


def _plain(label: Any, split: str) -> str | int | None:
    """A label as name, as number from 0, or as ``None``."""
    label = label.item() if getattr(label, "ndim", None) == 0 else label
    if label is None or isinstance(label, str):
        return label
    if type(label).__name__ == "NAType":  # pandas.NA
        return None
    if isinstance(label, float) and math.isnan(label):
        return None
    number = isinstance(label, int | float) and not isinstance(label, bool)
    if not number or abs(label) == math.inf or label != int(label):
        raise UserError(
            f"A label of `{split}` is {label!r}: give an integer from 0, a name, or None where it is unknown."
        )
    return None if label < 0 else int(label)
