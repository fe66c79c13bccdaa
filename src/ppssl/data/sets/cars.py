"""Data module of Stanford Cars (Krause et al., 3dRR 2013): 196 car models."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ppssl.data.files import FileSource
from ppssl.data.sets.parquet import find_parquet, read_parquet
from ppssl.data.sets.published import PublishedDataModule, Sizes, check_files
from ppssl.data.sets.tables import raise_file_error
from ppssl.data.source import ImageSource
from ppssl.utils.errors import UserError

__all__ = ["CarsDataModule", "read_cars"]

_BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class CarsDataModule(PublishedDataModule):
    """Data module of Stanford Cars: 8,144 training and 8,041 test images of 196 models.

    ``root`` contains the data set's folder, or is that folder, as torchvision reads it::

        stanford_cars
        ├── devkit
        │   ├── cars_meta.mat
        │   └── cars_train_annos.mat
        ├── cars_test_annos_withlabels.mat       or in devkit
        ├── cars_train/*.jpg
        └── cars_test/*.jpg

    or it contains Parquet files as mirrors on model hubs do, in ``root`` or ``root/data``; a row has the ``image``
    (a struct with its ``bytes``) and the ``label``, from 0::

        root
        └── data
            ├── train-00000-of-00002.parquet, ...
            └── test-00000-of-00002.parquet, ...

    or it contains class folders, ``root/train/<class>`` and ``root/test/<class>``. IADM's health metrics compare its
    attention maps with the devkit's boxes. The original host has been offline since 2023, so there is no download.

    Args:
        root: Folder of the data set, or the folder above it.
        download: Not supported: raises a user error with instructions if the files are missing.
        check_counts: Whether to raise an error if the numbers of images and classes are not the published ones.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    title = "Stanford Cars"
    guidance = (
        "its host has been offline since 2023; github.com/pytorch/vision/issues/7545 lists copies. Provide "
        "devkit/{cars_meta,cars_train_annos,cars_test_annos_withlabels}.mat, cars_train/*.jpg and cars_test/*.jpg, or "
        "data/{train,test}-*.parquet, or train/<class>/*.jpg and test/<class>/*.jpg."
    )

    @property
    def sizes(self) -> Sizes:
        """Numbers of images and classes of the official split."""
        return Sizes(train=8144, test=8041, classes=196)

    def home(self, root: Path) -> Path | None:
        """Find the folder of the devkit or of the Parquet files; ``None`` if there is none."""
        for place in (root, root / "stanford_cars"):
            if (place / "devkit" / "cars_meta.mat").is_file():
                return place
        places = (root, root / "data")
        return next((place for place in places if find_parquet(place, "train")), None)

    def read(self, home: Path) -> dict[str, ImageSource]:
        """Read the devkit's layout, or Parquet files."""
        return read_cars(home) if (home / "devkit").is_dir() else read_parquet(home)


def read_cars(home: Path) -> dict[str, ImageSource]:
    """Read the official split with the devkit; labels count from 0.

    Raises:
        UserError: A file is missing or malformed; the message has the number of the annotation.
    """
    meta = home / "devkit" / "cars_meta.mat"
    classes = [str(name) for name in _mat(meta, "class_names")]
    if len(set(classes)) != len(classes) or not all(classes):
        raise_file_error(meta, "its class names are not distinct")
    test_labels = "cars_test_annos_withlabels.mat"
    places = (home / "devkit" / test_labels, home / test_labels)
    files = {
        "train": home / "devkit" / "cars_train_annos.mat",
        "test": next((place for place in places if place.is_file()), places[0]),
    }
    return {
        split: _read_split(home, _images(home, f"cars_{split}"), file, classes)
        for split, file in files.items()
    }


def _images(home: Path, name: str) -> Path:
    nested = home / name / name  # the layout of one mirror
    return nested if nested.is_dir() else home / name


def _read_split(home: Path, images: Path, file: Path, classes: list[str]) -> FileSource:
    entries = _mat(file, "annotations")
    missing = {"fname", "class", *_BOX} - set(entries.dtype.names or ())
    if missing:
        raise_file_error(file, f"its annotations have no {', '.join(sorted(missing))}")
    labels, boxes = np.empty(len(entries), dtype=np.int64), np.empty((len(entries), 4))
    paths: dict[Path, int] = {}
    for i, entry in enumerate(entries):
        where = f"annotation {i + 1}"
        name = entry["fname"]
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
            raise_file_error(file, f"{where}: {name!r} is not an image name")
        if images / name in paths:
            raise_file_error(
                file, f"{where}: {name} is already in annotation {paths[images / name] + 1}"
            )
        paths[images / name] = i
        label = _number(file, where, entry["class"])
        if label not in range(1, len(classes) + 1):
            raise_file_error(
                file, f"{where}: class {label:g} is out of range: it must be 1 to {len(classes)}"
            )
        labels[i] = label - 1
        left, top, right, bottom = (_number(file, where, entry[side]) for side in _BOX)
        if right < left or bottom < top:
            raise_file_error(
                file, f"{where}: right and bottom of its box are less than left and top"
            )
        boxes[i] = left - 1, top - 1, right, bottom  # pixels are counted from 1
    check_files(file, list(paths))
    return FileSource(home, list(paths), labels, classes, boxes=boxes)


def _number(file: Path, where: str, value: Any) -> float:
    number = np.asarray(value)
    if number.shape != () or number.dtype.kind not in "iuf" or not np.isfinite(number):
        raise_file_error(file, f"{where}: {value!r} is not a number")
    return float(number)


def _mat(file: Path, variable: str) -> np.ndarray:
    """Read a variable of a MATLAB file, ``(N,)``."""
    from scipy.io import loadmat

    if not file.is_file():
        raise UserError(f"{file} is missing.")
    try:
        _check_mat(file.read_bytes())
        content = loadmat(file, squeeze_me=True, variable_names=[variable])
    except Exception as error:  # the reader raises arbitrary exceptions for damaged files
        raise UserError(f"{file}: not a MATLAB file of version 5, or damaged: {error}.") from error
    if variable not in content:
        raise_file_error(file, f"it has no variable `{variable}`")
    return np.atleast_1d(np.asarray(content[variable]))


def _check_mat(raw: bytes) -> None:
    """Check the length and the checksums of a MATLAB file, because scipy's reader may crash on a damaged one.

    The file has 128 bytes of header, then elements with a tag of type and size; type 15 is compressed by zlib, which
    has a checksum.
    """
    if not raw.startswith(b"MATLAB 5.0 MAT-file"):
        raise ValueError("unknown header")
    order = {b"IM": "<", b"MI": ">"}[raw[126:128]]
    position = 128
    while position < len(raw):
        kind, size = struct.unpack_from(f"{order}II", raw, position)
        position += 8 + size
        if kind == 15:
            zlib.decompress(raw[position - size : position])
    if position != len(raw):
        raise ValueError("truncated file")
