"""Data module of data sets of torch, torchvision, Hugging Face, of tables, lists of files, shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.files import FileSource
from ppssl.data.images import deep_range, read_image, to_rgb
from ppssl.data.sets.class_list import ClassList
from ppssl.data.sets.rows import are_files, image_of_row, open_rows
from ppssl.data.sets.shards import ShardSource, are_shards, open_shards
from ppssl.data.source import UNREADABLE, ImageSource, path_text
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand_text

__all__ = ["DatasetDataModule", "RowSource", "as_image"]

_HASHED = 32
"""Number of images whose pixels the fingerprint of a data set holds."""


class DatasetDataModule(FineGrainedDataModule):
    """Data module over data sets of your own.

    Each of ``train``, ``val`` and ``test`` is one of:

    - a map-style data set of torch (``len(d)`` and ``d[i]``) of images, of pairs of image and label, or of dicts with
      an ``image`` and perhaps a ``label``; a ``Dataset`` of Hugging Face is one of dicts;
    - torchvision's ``ImageFolder``, whose files are read directly if it has no transform;
    - a list of files, or of pairs of a file and a label;
    - a table with columns (a DataFrame, ``pyarrow.Table`` or dict of lists), with a file in each row;
    - shards of webdataset: a tar file, a folder of them, a pattern (``shards-{000..009}.tar``, ``shards-*.tar``) or a
      list of these. Each key's first image is read, and its label from ``.cls`` or a field of ``.json``.

    An image is a PIL image, a file's path or bytes, an array ``(H, W)`` or ``(H, W, 3)`` uint8, or a tensor
    ``(3, H, W)``, uint8 or float in [0, 1]: *before* augmentation, so a data set's own transform should at most resize.
    A label is an integer from 0, a name, or ``None`` where it is unknown. Views, splits, seeds, exact resuming and
    several processes are those of every data module of this package.

    Args:
        train: Training images.
        val: Images for the online monitors; ``None``: a part of the training labels is held out.
        test: Images for evaluation, or ``None``.
        image_column: Name of the images in dicts and tables; ``None``: the first of image, img, pixel_values, path,
            file, filename. Of shards the ending, such as ``left.jpg``.
        label_column: Name of the labels there, and in ``.json``; ``None``: the first of label, labels, fine_label,
            target, class, cls.
        class_names: Class names in label order; ``None``: those that the training images' data set knows, else the
            labels themselves. Of a data set that names its classes, they are other names for all, or the same in
            another order. ``val`` and ``test`` that name their classes are matched by name, not by number.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    def __init__(
        self,
        train: Any,
        *,
        val: Any = None,
        test: Any = None,
        image_column: str | None = None,
        label_column: str | None = None,
        class_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.train = train
        self.val = val
        self.test = test
        self.image_column = image_column
        self.label_column = label_column
        self.class_names = class_names

    def load_sources(self) -> dict[str, ImageSource]:
        """Wrap each data set.

        Raises:
            UserError: A data set is of another kind, or its images or labels are; or a column is named where there is
                none.
        """
        given = {"train": self.train, "val": self.val, "test": self.test}
        classes = ClassList(self.class_names)
        sources: dict[str, ImageSource] = {}
        columns = False
        for split, dataset in given.items():
            if dataset is not None:
                if are_shards(dataset):
                    rows = open_shards(dataset, split, self.image_column, self.label_column)
                else:
                    rows = open_rows(dataset, split, self.image_column, self.label_column)
                columns |= rows.has_columns
                labels = classes.number(rows, split)
                names = classes.names or []
                sources[split] = _source(rows.images, self.image_column, labels, names, split)
        for name in ("image_column", "label_column"):
            if not columns and getattr(self, name) is not None:
                raise UserError(
                    f"`{name}` is {getattr(self, name)!r}, and the data sets have no columns: it is for tables, dicts "
                    "and shards. Leave it out."
                )
        return sources


class RowSource(ImageSource):
    """Images of anything with ``rows[i]``.

    Args:
        rows: Images, pairs that begin with one, or dicts.
        column: Name of the image in a dict; ``None``: the first that is known.
        labels: ``(N,)`` int64.
        classes: Class names.
        split: The split, for names of images without a file.
    """

    def __init__(
        self, rows: Any, column: str | None, labels: np.ndarray, classes: list[str], split: str
    ) -> None:
        self.rows, self.column, self.split = rows, column, split
        self.labels, self.classes = labels, classes

    def load(self, i: int) -> Image.Image:
        """Load image ``i`` by :func:`as_image`."""
        return as_image(self._image(i), self.bit_depth)

    def deep_range(self, i: int) -> int | None:
        """Largest value of image ``i`` by :func:`~ppssl.data.images.deep_range`."""
        value = _unwrapped(self._image(i))
        return deep_range(value) if isinstance(value, Path | bytes | Image.Image) else None

    def name(self, i: int) -> str:
        """Path of image ``i`` if it is in a list of rows that has it, else its number and split."""
        value = self._image(i) if isinstance(self.rows, list | tuple) else None
        path = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(path, str | os.PathLike):
            return path_text(path)
        return f"image {i} of {self.split}"

    def _image(self, i: int) -> Any:
        return image_of_row(self.rows[int(i)], self.column)

    def fingerprint(self) -> str:
        """Hash of the number of rows and the pixels of some of them, evenly spaced."""
        sha = hashlib.sha256(f"{len(self)} {type(self.rows).__name__}".encode())
        for i in np.linspace(0, len(self) - 1, min(_HASHED, len(self))).round().astype(int):
            try:
                sha.update(self.load(i).tobytes())
            except UNREADABLE as error:  # loading for the training reports it
                sha.update(type(error).__name__.encode())
        return sha.hexdigest()[:16]


def as_image(value: Any, bit_depth: int | None = None) -> Image.Image:
    """An RGB image of any of the forms that :class:`DatasetDataModule` takes.

    Args:
        value: The image.
        bit_depth: See :func:`~ppssl.data.images.read_image`.

    Raises:
        OSError: A file cannot be read.
        ValueError: It has another form, or a tensor's values are outside [0, 1].
    """
    value = _unwrapped(value)
    if isinstance(value, bytes | Path):
        return read_image(value, bit_depth=bit_depth)
    if isinstance(value, Image.Image):
        return to_rgb(value, bit_depth)
    if isinstance(value, Tensor) and value.ndim == 3 and len(value) in (1, 3):
        return to_rgb(Image.fromarray(_pixels(value)))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and _is_shaped(value.shape):
        return to_rgb(Image.fromarray(value))
    form = f" {value.dtype} {tuple(value.shape)}" if hasattr(value, "dtype") else ""
    raise ValueError(
        f"`{type(value).__name__}`{form} is no image: give a PIL image, a file's path or bytes, an array (H, W, 3) of "
        "uint8, or a tensor (3, H, W) of uint8 or of floats in [0, 1], before augmentation and normalisation"
    )


def _unwrapped(value: Any) -> Any:
    """Bytes, or the path, of an image that is encoded; other images as they are."""
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():  # Hugging Face, undecoded
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    return Path(expand_text(value)) if isinstance(value, str | os.PathLike) else value


def _is_shaped(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is an image: grey, or with 2 to 4 channels that come last."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (2, 3, 4))


def _pixels(image: Tensor) -> np.ndarray:
    if image.is_floating_point():
        if not 0 <= image.min() <= image.max() <= 1:
            raise ValueError(
                f"a tensor of values from {image.min():.3g} to {image.max():.3g} is no image in [0, 1]: take its "
                "normalisation out of the data set's transform"
            )
        image = (image * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise ValueError(f"a tensor of {image.dtype} is no image: give it as uint8")
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy()


def _source(
    images: Any, column: str | None, labels: np.ndarray, classes: list[str], split: str
) -> ImageSource:
    """Files and shards are read as such, and may be decoded at a reduced size; all else by its row."""
    if isinstance(images, ShardSource):
        images.labels, images.classes = labels, classes
        return images
    if are_files(images):
        paths = [Path(expand_text(path)).absolute() for path in images]
        root = Path(os.path.commonpath([path.parent for path in paths]))
        return FileSource(root, paths, labels, classes)
    return RowSource(images, column, labels, classes, split)
