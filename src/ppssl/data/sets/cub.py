"""Data module of Caltech-UCSD Birds-200-2011 (Wah et al., Technical Report CNS-TR-2011-001): 200 species."""

from pathlib import Path, PurePosixPath

import numpy as np

from ppssl.data.files import FileSource
from ppssl.data.sets.download import Archive
from ppssl.data.sets.published import PublishedDataModule, Sizes, check_files
from ppssl.data.sets.tables import Row, raise_file_error, read_numbered, read_rows
from ppssl.data.source import ImageSource
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand

__all__ = ["CUBDataModule", "read_cub"]


class CUBDataModule(PublishedDataModule):
    """Data module of CUB-200-2011: 5,994 training and 5,794 test images of 200 bird species.

    ``root`` contains the data set's folder, or is that folder::

        CUB_200_2011
        ├── images.txt                <image> <class folder>/<file>
        ├── image_class_labels.txt    <image> <class>
        ├── train_test_split.txt      <image> <1 for training>
        ├── classes.txt               <class> <class folder>
        ├── bounding_boxes.txt        <image> <x> <y> <width> <height>
        ├── parts
        │   ├── parts.txt             <part> <name>
        │   └── part_locs.txt         <image> <part> <x> <y> <visible>
        ├── attributes
        │   └── class_attribute_labels_continuous.txt
        └── images/<class folder>/<file>

    or it contains class folders, ``root/train/<class>`` and ``root/test/<class>``. If boxes and parts are present,
    IADM's health metrics compare its attention maps with them. ``download`` fetches the archive of 1.1 GB.

    Args:
        root: Folder of the data set, or the folder above it.
        download: Whether to download the data set if it is missing.
        check_counts: Whether to raise an error if the numbers of images and classes are not the published ones.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    title = "CUB-200-2011"
    guidance = (
        "extract CUB_200_2011.tgz (data.caltech.edu/records/65de6-vp158) there, or set `download: true`; or "
        "provide train/<class>/*.jpg and test/<class>/*.jpg."
    )
    archive = Archive(
        file="CUB_200_2011.tgz",
        md5="97eceeb196236b17998738112f37df78",
        folder="CUB_200_2011",
        urls=(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "http://www.vision.caltech.edu/visipedia-data/CUB-200-2011/CUB_200_2011.tgz",
        ),
    )

    @property
    def sizes(self) -> Sizes:
        """Numbers of images and classes of the official split."""
        return Sizes(train=5994, test=5794, classes=200)

    def home(self, root: Path) -> Path | None:
        """Find the folder of ``images.txt``; ``None`` if there is none."""
        places = (root, root / "CUB_200_2011")
        return next((place for place in places if (place / "images.txt").is_file()), None)

    def read(self, home: Path) -> dict[str, ImageSource]:
        """Read the official layout."""
        return read_cub(home)

    def attributes(self) -> tuple[list[str], np.ndarray]:
        """Names of the binary attributes (``has_bill_shape::dagger``) and their frequency in each class.

        Returns:
            K names, and the annotators' frequencies, ``(classes, K)`` float32 in [0, 1].

        Raises:
            UserError: The attribute files are missing or damaged.
        """
        root = expand(self.root)
        home = self.home(root)
        if home is None:
            raise UserError(
                f"Cannot read the attributes: {root} has no CUB_200_2011 with images.txt."
            )
        # the archive has the names next to the data set's folder, and many copies lack them
        places = [home / "attributes" / "attributes.txt", home.parent / "attributes.txt"]
        file = next((place for place in places if place.is_file()), places[0])
        names = [row.fields[1] for row in read_numbered(file, 2, rest=True)]
        table = home / "attributes" / "class_attribute_labels_continuous.txt"
        rows = read_rows(table, len(names))
        classes = len(read_numbered(home / "classes.txt", 2))
        if len(rows) != classes:
            raise_file_error(table, f"{len(rows)} lines for {classes} classes")
        percent = np.array([row.numbers(0) for row in rows], dtype=np.float32)
        for row in np.flatnonzero(((percent < 0) | (percent > 100)).any(axis=1)):
            rows[row].raise_error("percentages must be from 0 to 100")
        return names, percent / 100


def read_cub(home: Path) -> dict[str, ImageSource]:
    """Read the official split; labels count from 0.

    The class of an image is stated by two files and by its path, which must agree.

    Raises:
        UserError: A file is missing or malformed; the message has the line.
    """
    images = read_numbered(home / "images.txt", 2)
    classes = [row.fields[1] for row in _distinct(read_numbered(home / "classes.txt", 2))]
    labels, train = np.empty(len(images), dtype=np.int64), np.empty(len(images), dtype=bool)
    pairs = _same_images(home / "image_class_labels.txt", images)
    split = _same_images(home / "train_test_split.txt", images)
    for i, (image, row) in enumerate(zip(_distinct(images), pairs, strict=True)):
        folder = _class_folder(image)
        labels[i] = row.integer(1, 1, len(classes)) - 1
        if classes[labels[i]] != folder:
            row.raise_error(
                f"class {row.fields[1]} is {classes[labels[i]]!r} in classes.txt, but images.txt has the image in "
                f"{folder!r}"
            )
        train[i] = split[i].integer(1, 0, 1)
    paths = [home / "images" / row.fields[1] for row in images]
    check_files(home / "images.txt", paths)
    boxes, points = _boxes(home, images), _points(home, len(images))
    sources: dict[str, ImageSource] = {}
    for name, numbers in (("train", np.flatnonzero(train)), ("test", np.flatnonzero(~train))):
        sources[name] = FileSource(
            home,
            [paths[i] for i in numbers],
            labels[numbers],
            classes,
            boxes=None if boxes is None else boxes[numbers],
            points=None if points is None else points[numbers],
        )
    return sources


def _distinct(rows: list[Row]) -> list[Row]:
    """Check that the second fields are distinct."""
    first: dict[str, Row] = {}
    for row in rows:
        first_row = first.setdefault(row.fields[1], row)
        if first_row is not row:
            row.raise_error(f"{row.fields[1]!r} is already in line {first_row.line}")
    return rows


def _same_images(file: Path, images: list[Row], columns: int = 2) -> list[Row]:
    """Read a numbered table that must have as many rows as the list of images."""
    rows = read_numbered(file, columns)
    if len(rows) != len(images):
        raise_file_error(file, f"{len(rows)} images, but {images[0].file.name} has {len(images)}")
    return rows


def _class_folder(image: Row) -> str:
    parts = PurePosixPath(image.fields[1]).parts
    if len(parts) != 2 or ".." in parts or parts[0] == "/":
        image.raise_error(f"{image.fields[1]!r} is not <class folder>/<file>")
    return parts[0]


def _boxes(home: Path, images: list[Row]) -> np.ndarray | None:
    """Read the boxes, ``(N, 4)``: left, top, right, bottom in pixels; ``None`` without the file."""
    file = home / "bounding_boxes.txt"
    if not file.is_file():
        return None
    rows = _same_images(file, images, 5)
    boxes = np.array([row.numbers(1) for row in rows])
    for row, (_, _, width, height) in zip(rows, boxes, strict=True):
        if width <= 0 or height <= 0:
            row.raise_error(f"width and height of the box must be > 0, got {width:g} x {height:g}")
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _points(home: Path, count: int) -> np.ndarray | None:
    """Read the part points, ``(N, P, 2)``: x and y in pixels, NaN for an invisible part; ``None`` without the file."""
    file = home / "parts" / "part_locs.txt"
    if not file.is_file():
        return None
    parts = len(read_numbered(home / "parts" / "parts.txt", 2, rest=True))
    points, lines = np.full((count, parts, 2), np.nan), np.zeros((count, parts), dtype=np.int64)
    for row in read_rows(file, 5):
        image, part = row.integer(0, 1, count) - 1, row.integer(1, 1, parts) - 1
        if lines[image, part]:
            row.raise_error(
                f"part {part + 1} of image {image + 1} is already in line {lines[image, part]}"
            )
        lines[image, part] = row.line
        if row.integer(4, 0, 1):
            points[image, part] = row.numbers(2, 4)
    if not lines.all():
        image, part = np.argwhere(lines == 0)[0]
        raise_file_error(file, f"part {part + 1} of image {image + 1} is missing")
    return points
