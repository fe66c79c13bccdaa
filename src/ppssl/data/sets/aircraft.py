"""Data module of FGVC-Aircraft (Maji et al., arXiv 1306.5151): aircraft variants, families or manufacturers."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from ppssl.data.files import FileSource
from ppssl.data.sets.download import Archive
from ppssl.data.sets.published import PublishedDataModule, Sizes, check_files
from ppssl.data.sets.tables import Row, raise_file_error, read_rows
from ppssl.data.source import ImageSource, digest
from ppssl.utils.errors import ArgumentError

__all__ = ["AircraftDataModule", "BottomCut", "read_aircraft"]

Level = Literal["variant", "family", "manufacturer"]
_LISTS = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}
_CLASSES = {"variant": 100, "family": 70, "manufacturer": 30}


class AircraftDataModule(PublishedDataModule):
    """Data module of FGVC-Aircraft 2013b: 6,667 training images (train + val) and 3,333 test images.

    ``root`` contains the data set's folder, or is that folder::

        fgvc-aircraft-2013b
        └── data
            ├── variants.txt, families.txt, manufacturers.txt     one class per line
            ├── images_variant_trainval.txt                       <image> <class>
            ├── images_variant_train.txt, images_variant_val.txt, images_variant_test.txt
            ├── images_family_*.txt, images_manufacturer_*.txt    likewise
            ├── images_box.txt                                    <image> <left> <top> <right> <bottom>
            └── images/<image>.jpg

    or it contains class folders, ``root/train/<class>``, ``root/val/<class>`` (training images too) and
    ``root/test/<class>``. If boxes are present, IADM's health metrics compare its attention maps with them.
    ``download`` fetches the archive of 2.75 GB. torchvision does not check its MD5; the one here is that of
    mlverse/torchvision and google-deepmind/dm_nevis.

    Args:
        root: Folder of the data set, or the folder above it.
        level: Class level: 100 variants, 70 families or 30 manufacturers.
        banner: Rows of pixels to remove at the bottom, where each original has a copyright banner; 0 for a copy without
            banners.
        kwargs: ``download`` and ``check_counts`` of :class:`~ppssl.data.sets.published.PublishedDataModule` and the
            arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    title = "FGVC-Aircraft"
    guidance = (
        "extract fgvc-aircraft-2013b.tar.gz (www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft) there, or set "
        "`download: true`; or provide train/<class>/*.jpg and test/<class>/*.jpg."
    )
    archive = Archive(
        file="fgvc-aircraft-2013b.tar.gz",
        md5="d4acdd33327262359767eeaa97a4f732",
        folder="fgvc-aircraft-2013b",
        urls=(
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        ),
    )

    def __init__(
        self, root: str, *, level: Level = "variant", banner: int = 20, **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        if level not in _LISTS:
            raise ArgumentError(f"`level` must be one of {', '.join(_LISTS)}, got {level!r}.")
        if banner < 0:
            raise ArgumentError(f"`banner` must be >= 0, got {banner}.")
        self.level = level
        self.banner = banner

    @property
    def sizes(self) -> Sizes:
        """Numbers of images and classes of the official split."""
        return Sizes(train=6667, test=3333, classes=_CLASSES[self.level])

    def home(self, root: Path) -> Path | None:
        """Find the folder of the class lists; ``None`` if there is none."""
        places = (root / "fgvc-aircraft-2013b" / "data", root / "data", root)
        return next((place for place in places if (place / "variants.txt").is_file()), None)

    def read(self, home: Path) -> dict[str, ImageSource]:
        """Read the official layout."""
        return read_aircraft(home, self.level)

    def load_sources(self) -> dict[str, ImageSource]:
        """Load the training and test images without their banner."""
        sources = super().load_sources()
        for source in sources.values():
            source.bit_depth = self.bit_depth
        return {name: BottomCut(source, self.banner) for name, source in sources.items()}


class BottomCut(ImageSource):
    """Images of another source without their bottom rows of pixels.

    Args:
        source: The original images.
        rows: Number of rows to remove.
    """

    def __init__(self, source: ImageSource, rows: int) -> None:
        self.source, self.rows = source, rows
        self.labels, self.classes = source.labels, source.classes
        self.passed_over = dict(source.passed_over)

    def load(self, i: int) -> Image.Image:
        """Load image ``i`` without its bottom rows.

        Raises:
            ValueError: The image has no more rows than are to be removed.
        """
        image = self.source.load(i)
        if image.height <= self.rows:
            raise ValueError(
                f"its height is {image.height} pixels, and `banner` removes {self.rows}"
            )
        if self.rows == 0:
            return image
        return image.crop((0, 0, image.width, image.height - self.rows))

    def deep_range(self, i: int) -> int | None:
        """Largest value of the original image ``i``."""
        return self.source.deep_range(i)

    def name(self, i: int) -> str:
        """Path of image ``i``."""
        return self.source.name(i)

    def fingerprint(self) -> str:
        """Hash of the source's fingerprint and the number of removed rows."""
        fingerprint = self.source.fingerprint()
        return digest([fingerprint, f"bottom {self.rows}"]) if self.rows else fingerprint

    def annotations(self, i: int) -> dict[str, Tensor]:
        """Annotations of image ``i``, relative to the remaining rows."""
        annotations = self.source.annotations(i)
        if "box" in annotations and self.rows:
            height = self.load(i).height
            vertical = annotations["box"][1::2] * (height + self.rows) / height
            annotations["box"][1::2] = vertical.clamp(max=1)
        return annotations


def read_aircraft(home: Path, level: Level) -> dict[str, ImageSource]:
    """Read the official split from the ``data`` folder; labels count from 0 in the order of the class list.

    Raises:
        UserError: A file is missing or malformed; the message has the line.
    """
    label_of: dict[str, int] = {}
    for row in read_rows(home / f"{_LISTS[level]}.txt", 1, rest=True):
        if row.fields[0] in label_of:
            row.raise_error(f"{row.fields[0]!r} is listed twice")
        label_of[row.fields[0]] = len(label_of)
    lists = {split: home / f"images_{level}_{split}.txt" for split in ("trainval", "test")}
    entries = {split: _entries(file, label_of) for split, file in lists.items()}
    _check_parts(home, level, entries["trainval"], label_of)
    for image in entries["test"].keys() & entries["trainval"].keys():
        name = lists["trainval"].name
        entries["test"][image].raise_error(f"{image} is also a training image in {name}")
    boxes = _boxes(home / "images_box.txt")
    sources: dict[str, ImageSource] = {}
    for name, split in (("train", "trainval"), ("test", "test")):
        rows = entries[split]
        paths = [home / "images" / f"{image}.jpg" for image in rows]
        check_files(lists[split], paths)
        labels = np.array([label_of[row.fields[1]] for row in rows.values()], dtype=np.int64)
        unknown = (np.nan,) * 4
        split_boxes = np.array([boxes.get(image, unknown) for image in rows]) if boxes else None
        sources[name] = FileSource(home, paths, labels, list(label_of), boxes=split_boxes)
    return sources


def _entries(file: Path, classes: dict[str, int]) -> dict[str, Row]:
    """Read the rows of a split's list, by image."""
    entries: dict[str, Row] = {}
    for row in read_rows(file, 2, rest=True):
        image = row.fields[0]
        if not image.isalnum():
            row.raise_error(f"{image!r} is not an image name")
        if image in entries:
            row.raise_error(f"{image} is already in line {entries[image].line}")
        if row.fields[1] not in classes:
            row.raise_error(f"{row.fields[1]!r} is not one of the {len(classes)} classes")
        entries[image] = row
    return entries


def _check_parts(home: Path, level: str, trainval: dict[str, Row], classes: dict[str, int]) -> None:
    """Check that the ``train`` and ``val`` lists, if both exist, agree with the ``trainval`` list."""
    files = [home / f"images_{level}_{split}.txt" for split in ("train", "val")]
    if not all(file.is_file() for file in files):
        return
    seen: dict[str, Row] = {}
    for file in files:
        for image, row in _entries(file, classes).items():
            if image in seen:
                row.raise_error(f"{image} is also in {seen[image].file.name}")
            if image not in trainval or trainval[image].fields[1] != row.fields[1]:
                row.raise_error(
                    f"images_{level}_trainval.txt does not list {image} with this class"
                )
            seen[image] = row
    if len(seen) != len(trainval):
        problem = f"{len(seen)} images together with {files[1].name}, expected {len(trainval)}"
        raise_file_error(files[0], problem)


def _boxes(file: Path) -> dict[str, tuple[float, ...]]:
    """Read left, top, right and bottom edges in pixels, by image; the file counts pixels from 1."""
    if not file.is_file():
        return {}
    boxes: dict[str, tuple[float, ...]] = {}
    for row in read_rows(file, 5):
        left, top, right, bottom = row.numbers(1)
        if row.fields[0] in boxes:
            row.raise_error(f"{row.fields[0]} is listed twice")
        if right < left or bottom < top:
            row.raise_error("right and bottom of the box must not be less than left and top")
        boxes[row.fields[0]] = (left - 1, top - 1, right, bottom)
    return boxes
