"""FGVC-Aircraft (Maji et al., arXiv 1306.5151): variants, families and manufacturers of aircraft, with boxes."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from ppssl.data.files import FileSource
from ppssl.data.sets.download import Archive
from ppssl.data.sets.published import PublishedDataModule, Sizes, check_files
from ppssl.data.sets.tables import Row, fail, read_rows
from ppssl.data.source import ImageSource, digest

__all__ = ["AircraftDataModule", "BottomCut", "read_aircraft"]

Level = Literal["variant", "family", "manufacturer"]
_LISTS = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}
_CLASSES = {"variant": 100, "family": 70, "manufacturer": 30}


class AircraftDataModule(PublishedDataModule):
    """FGVC-Aircraft 2013b: 6,667 training images (train + val) and 3,333 test images.

    ``root`` holds the set's folder, or is that folder::

        fgvc-aircraft-2013b
        └── data
            ├── variants.txt, families.txt, manufacturers.txt     a class a line
            ├── images_variant_trainval.txt                       <image> <class>
            ├── images_variant_train.txt, images_variant_val.txt, images_variant_test.txt
            ├── images_family_*.txt, images_manufacturer_*.txt    likewise
            ├── images_box.txt                                    <image> <left> <top> <right> <bottom>
            └── images/<image>.jpg

    or class folders, ``root/train/<class>``, ``root/val/<class>`` (training images too) and ``root/test/<class>``.
    Boxes, where they are there, tell IADM's health what its maps lie on. ``download`` fetches the archive, 2.75 GB.
    torchvision checks no MD5 of it; the one here is what mlverse/torchvision and google-deepmind/dm_nevis
    check.

    Args:
        root: The folder.
        level: What a class is: 100 variants, 70 families or 30 manufacturers.
        banner: Rows of pixels cut off at the bottom, where each original names its photographer; 0 for a copy in which
            they are cut off already.
        kwargs: ``download`` and ``check_counts`` of :class:`~ppssl.data.sets.published.PublishedDataModule` and the
            arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    title = "FGVC-Aircraft"
    guidance = (
        "extract fgvc-aircraft-2013b.tar.gz (www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft) in it, or let "
        "`download: true` do so; or lay out train/<class>/*.jpg and test/<class>/*.jpg."
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
        self, root: str, level: Level = "variant", banner: int = 20, **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        if level not in _LISTS:
            raise ValueError(f"`level` must be one of {', '.join(_LISTS)}, got {level!r}.")
        if banner < 0:
            raise ValueError(f"`banner` must be >= 0, got {banner}.")
        self.level = level
        self.banner = banner

    @property
    def sizes(self) -> Sizes:
        """The official split."""
        return Sizes(train=6667, test=3333, classes=_CLASSES[self.level])

    def home(self, root: Path) -> Path | None:
        """Where the lists of classes are."""
        places = (root / "fgvc-aircraft-2013b" / "data", root / "data", root)
        return next((place for place in places if (place / "variants.txt").is_file()), None)

    def read(self, home: Path) -> dict[str, ImageSource]:
        """The official layout."""
        return read_aircraft(home, self.level)

    def load_sources(self) -> dict[str, ImageSource]:
        """As all published sets; without the banner."""
        sources = super().load_sources()
        return {name: BottomCut(source, self.banner) for name, source in sources.items()}


class BottomCut(ImageSource):
    """Another source's images without their lowest rows of pixels."""

    def __init__(self, source: ImageSource, rows: int) -> None:
        self.source, self.rows = source, rows
        self.labels, self.classes = source.labels, source.classes

    def load(self, i: int) -> Image.Image:
        """Image ``i``; an image that would be cut away whole is broken."""
        image = self.source.load(i)
        if image.height <= self.rows:
            raise ValueError(f"it is {image.height} pixels high, and {self.rows} are to be cut off")
        return image.crop((0, 0, image.width, image.height - self.rows)) if self.rows else image

    def name(self, i: int) -> str:
        """The image's path."""
        return self.source.name(i)

    def fingerprint(self) -> str:
        """The source's, and what is cut off."""
        own = self.source.fingerprint()
        return digest([own, f"bottom {self.rows}"]) if self.rows else own

    def annotations(self, i: int) -> dict[str, Tensor]:
        """The source's, in the frame of what is left."""
        known = self.source.annotations(i)
        if "box" in known and self.rows:
            height = self.load(i).height
            vertical = known["box"][1::2] * (height + self.rows) / height
            known["box"][1::2] = vertical.clamp(max=1)
        return known


def read_aircraft(home: Path, level: Level) -> dict[str, ImageSource]:
    """The official split of the set in its ``data`` folder; labels count from 0 in the order of the class list.

    Raises:
        UserError: A file is missing or wrong, with its line.
    """
    listed = home / f"{_LISTS[level]}.txt"
    rows = read_rows(listed, 1, rest=True)
    number: dict[str, int] = {}
    for row in rows:
        if row.fields[0] in number:
            row.fail(f"{row.fields[0]!r} is there twice")
        number[row.fields[0]] = len(number)
    lists = {split: home / f"images_{level}_{split}.txt" for split in ("trainval", "test")}
    entries = {split: _entries(file, number) for split, file in lists.items()}
    _check_parts(home, level, entries["trainval"], number)
    for image in entries["test"].keys() & entries["trainval"].keys():
        entries["test"][image].fail(f"{image} is a training image in {lists['trainval'].name} too")
    boxes = _boxes(home / "images_box.txt")
    sources: dict[str, ImageSource] = {}
    for name, split in (("train", "trainval"), ("test", "test")):
        own = entries[split]
        paths = [home / "images" / f"{image}.jpg" for image in own]
        check_files(lists[split], paths)
        labels = np.array([number[row.fields[1]] for row in own.values()], dtype=np.int64)
        unknown = (np.nan,) * 4
        found = np.array([boxes.get(image, unknown) for image in own]) if boxes else None
        sources[name] = FileSource(home, paths, labels, list(number), boxes=found)
    return sources


def _entries(file: Path, classes: dict[str, int]) -> dict[str, Row]:
    """The lines of a split by image."""
    entries: dict[str, Row] = {}
    for row in read_rows(file, 2, rest=True):
        image = row.fields[0]
        if not image.isalnum():
            row.fail(f"{image!r} is no name of an image")
        if image in entries:
            row.fail(f"{image} is in line {entries[image].line} already")
        if row.fields[1] not in classes:
            row.fail(f"{row.fields[1]!r} is none of the {len(classes)} classes")
        entries[image] = row
    return entries


def _check_parts(home: Path, level: str, both: dict[str, Row], classes: dict[str, int]) -> None:
    """Where the two parts of the training images are there as well, they must say the same."""
    files = [home / f"images_{level}_{split}.txt" for split in ("train", "val")]
    if not all(file.is_file() for file in files):
        return
    seen: dict[str, Row] = {}
    for file in files:
        for image, row in _entries(file, classes).items():
            if image in seen:
                row.fail(f"{image} is in {seen[image].file.name} too")
            if image not in both or both[image].fields[1] != row.fields[1]:
                row.fail(f"images_{level}_trainval.txt says something else of {image}")
            seen[image] = row
    if len(seen) != len(both):
        fail(files[0], f"with {files[1].name} it has {len(seen)} images of {len(both)}")


def _boxes(file: Path) -> dict[str, tuple[float, ...]]:
    """Left, top, right and bottom edges in pixels by image; the file counts pixels from 1."""
    if not file.is_file():
        return {}
    boxes: dict[str, tuple[float, ...]] = {}
    for row in read_rows(file, 5):
        left, top, right, bottom = row.numbers(1)
        if row.fields[0] in boxes:
            row.fail(f"{row.fields[0]} is there twice")
        if right < left or bottom < top:
            row.fail("right and bottom of a box must not be less than left and top")
        boxes[row.fields[0]] = (left - 1, top - 1, right, bottom)
    return boxes
