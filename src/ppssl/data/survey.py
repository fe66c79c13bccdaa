"""A look at the images of a data set: which cannot be read, which occur twice, their sizes and colours."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.progress import track

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.files import EncodedSource
from ppssl.data.images import read_frame, squashed_side
from ppssl.data.loader import usable_cores
from ppssl.data.source import UNREADABLE, ImageSource
from ppssl.utils.checks import check_range

__all__ = ["SIDE", "Survey", "equal_files", "standardised", "survey"]

SIDE = 24
"""Height and width in pixels at which images are compared."""
ALIKE = 0.995
"""Correlation of the pixels of nearly equal images, at least, each channel without its mean."""
SHORT_SIDE = 96
"""Pixels of the short side, at least, at which JPEGs are decoded here."""
COMPARED = 10_000
"""Most images that are compared with each other."""
_BLOCK = 1024


@dataclass(frozen=True)
class Survey:
    """What was seen of the images of a data set; images are named by their number in the full data set.

    Attributes:
        data: The data set, after its ``setup``.
        labels: Label of each image ``(N,)`` int64, -1 where unknown.
        splits: Split of each image ``(N,)``.
        opened: Images that were decoded ``(M,)`` int64: all, or an evenly spaced part.
        broken: Reason why an image cannot be read, by image.
        sizes: Width and height in pixels of each opened and readable image ``(R, 2)``, upright and in full size.
        readable: Their numbers ``(R,)`` int64.
        mean: Mean of each channel in [0, 1] ``(R, 3)``.
        std: Standard deviation of each channel ``(R, 3)``, at :data:`SIDE` pixels.
        equal: Groups of images with equal content: of files, also in shards, their bytes, which are compared for all
            of them; of others the pixels, for those that were opened.
        alike: Pairs of images that were opened and have nearly equal pixels, but are not in a group.
    """

    data: FineGrainedDataModule
    labels: np.ndarray
    splits: np.ndarray
    opened: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    sizes: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    readable: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    mean: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    std: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    equal: list[tuple[int, ...]] = field(default_factory=list)
    alike: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def served_sizes(self) -> np.ndarray:
        """The sizes as models see the images ``(R, 2)``: those of squares, if the data set squashes."""
        if not self.data.squash:
            return self.sizes
        sides = [squashed_side(int(width), int(height)) for width, height in self.sizes]
        return np.array([(side, side) for side in sides], np.int64).reshape(-1, 2)

    def name(self, index: int) -> str:
        """Name of an image: its path if it is a file."""
        split, number = self.data.locate(index)
        return self.data.sources[split].name(number)

    def of(self, split: str) -> np.ndarray:
        """Labels of a split."""
        return self.labels[self.splits == split]


class _Look(NamedTuple):
    """What is seen of one image."""

    size: tuple[int, int] = (0, 0)
    small: np.ndarray = np.empty(0, np.float32)
    digest: str = ""
    broken: str = ""


def survey(data: FineGrainedDataModule, *, limit: int | None = None) -> Survey:
    """Look at the images of a data set.

    Args:
        data: The data set; it is set up if it is not yet.
        limit: Images that are decoded, evenly spaced; ``None``: all. Equal files are found among all of them.
    """
    check_range(">= 1", limit=limit)
    data.setup()
    sources = data.sources
    labels = np.concatenate([source.labels for source in sources.values()])
    splits = np.repeat(list(sources), [len(source) for source in sources.values()])
    count = len(labels) if limit is None else min(limit, len(labels))
    opened = np.linspace(0, len(labels) - 1, count).round().astype(np.int64)
    looks = _look_at(data, opened)
    seen = [i for i, look in enumerate(looks) if not look.broken]
    small = np.stack([looks[i].small for i in seen]) if seen else np.empty((0, SIDE * SIDE, 3))
    readable = opened[seen]
    equal = equal_files(data) + _groups({int(opened[i]): looks[i].digest for i in seen})
    return Survey(
        data=data,
        labels=labels,
        splits=splits,
        opened=opened,
        broken={int(opened[i]): look.broken for i, look in enumerate(looks) if look.broken},
        sizes=np.array([looks[i].size for i in seen]).reshape(-1, 2),
        readable=readable,
        mean=small.mean(axis=1),
        std=small.std(axis=1),
        equal=sorted(equal),
        alike=_alike(small, readable, equal),
    )


def equal_files(data: FineGrainedDataModule) -> list[tuple[int, ...]]:
    """Groups of image files whose bytes are equal, by their numbers in the full data set; empty files are left out.

    Only files of the same size are read.

    Args:
        data: The data set, after its ``setup``; sources that are not files are passed over.
    """
    by_size: dict[int, list[tuple[int, EncodedSource, int]]] = defaultdict(list)
    for split, source in data.sources.items():
        if isinstance(source, EncodedSource):
            for i in range(len(source)):
                by_size[_size(source, i)].append((data.offset(split) + i, source, i))
    same_size = [group for size, group in by_size.items() if size and len(group) > 1]
    return _groups({k: _digest_of(source, i) for group in same_size for k, source, i in group})


def _size(source: EncodedSource, i: int) -> int:
    try:
        return source.encoded_size(i)
    except OSError:  # opening reports it
        return 0


def _digest_of(source: EncodedSource, i: int) -> str:
    try:
        content = source.encoded(i)
        content = content.read_bytes() if isinstance(content, Path) else content
        return hashlib.sha256(content).hexdigest()
    except OSError:
        return ""


def _groups(digests: dict[int, str]) -> list[tuple[int, ...]]:
    """Groups of two or more with the same digest; an empty one is left out."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, digest in digests.items():
        if digest:
            groups[digest].append(index)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]


def _look_at(data: FineGrainedDataModule, opened: np.ndarray) -> list[_Look]:
    """Decode images; files by several threads, as Pillow lets others run while it decodes."""
    located = [data.locate(int(index)) for index in opened]
    files = all(isinstance(source, EncodedSource) for source in data.sources.values())

    def look(place: tuple[str, int]) -> _Look:
        return _look(data.sources[place[0]], place[1])

    if not files:
        return [look(place) for place in _tracked(located)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(_tracked(pool.map(look, located), len(located)))


def _tracked(items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
    return track(items, "Looking at images", total=total, transient=True)


def _look(source: ImageSource, i: int) -> _Look:
    encoded = source if isinstance(source, EncodedSource) else None
    try:
        image = source.load_reduced(i, SHORT_SIDE)
        size = image.size if encoded is None else _upright_size(encoded.encoded(i))
    except UNREADABLE as error:
        return _Look(broken=str(error).split("\n")[0].rstrip("."))
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32).reshape(-1, 3) / 255
    if encoded is not None:  # the bytes are compared
        return _Look(size, pixels)
    content = repr(image.size).encode() + image.tobytes()
    return _Look(size, pixels, hashlib.sha256(content).hexdigest())


def _upright_size(file: Path | bytes) -> tuple[int, int]:
    width, height, orientation = read_frame(file)
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def standardised(small: np.ndarray) -> np.ndarray:
    """Small images as rows, the product of two of which is the correlation of their pixels; plain images are 0.

    Args:
        small: ``(N, P, C)``, P pixels in [0, 1]; each channel is taken without its mean.
    """
    points = (small - small.mean(axis=1, keepdims=True)).reshape(len(small), -1)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return np.where(norms > 0.5, points / np.maximum(norms, 1e-9), 0).astype(np.float32)


def _alike(
    small: np.ndarray, numbers: np.ndarray, equal: Sequence[tuple[int, ...]]
) -> list[tuple[int, int]]:
    """Pairs of images whose small pixels correlate, without those of a group; plain images have no partner."""
    rows = np.linspace(0, len(small) - 1, min(COMPARED, len(small))).round().astype(int)
    points = standardised(small[rows])
    group_of = {i: k for k, group in enumerate(equal) for i in group}
    pairs = []
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        for i, j in np.argwhere(block @ points.T >= ALIKE):
            first, second = (int(numbers[rows[k]]) for k in (start + i, j))
            same = first in group_of and group_of[first] == group_of.get(second)
            if start + i < j and not same:
                pairs.append((first, second))
    return pairs
