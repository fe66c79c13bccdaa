"""Images that are the same or nearly so, and labels that the neighbours contradict, found by the embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.survey import SIDE, standardised
from ppssl.inference.embeddings import Embeddings
from ppssl.metrics.retrieval import chunk_length, unit_rows
from ppssl.utils.checks import check_range

__all__ = [
    "DoubtfulLabel",
    "Duplicate",
    "LocatedImage",
    "LocatedPair",
    "doubtful_labels",
    "find_duplicates",
    "located",
    "nearest_others",
    "with_equal_files",
]

CANDIDATES = 500
"""The pairs of highest similarity whose pixels are compared."""
ALIKE = 0.95
"""Correlation of the pixels of near-duplicates, at least."""


@dataclass(frozen=True)
class Duplicate:
    """Two images that are the same or nearly so.

    Attributes:
        first: Number of an image in the full data set.
        second: Number of the other image, larger.
        similarity: Cosine similarity of their embeddings.
        exact: Whether all their pixels are equal.
    """

    first: int
    second: int
    similarity: float
    exact: bool


@dataclass(frozen=True)
class LocatedImage:
    """An image of a pair.

    Attributes:
        index: Its number in the full data set.
        split: Its split.
        name: Its path if it is a file.
        class_name: Its class; ``None`` where unknown.
    """

    index: int
    split: str
    name: str
    class_name: str | None


@dataclass(frozen=True)
class LocatedPair:
    """A :class:`Duplicate` whose images are named.

    Attributes:
        first: An image.
        second: The other image, of a larger number.
        similarity: Cosine similarity of their embeddings.
        exact: Whether the files or all pixels are equal.
    """

    first: LocatedImage
    second: LocatedImage
    similarity: float
    exact: bool

    @property
    def crosses(self) -> bool:
        """Whether the images are in different splits."""
        return self.first.split != self.second.split

    @property
    def two_labels(self) -> bool:
        """Whether the images are of different classes, both of which are known."""
        classes = (self.first.class_name, self.second.class_name)
        return None not in classes and classes[0] != classes[1]


@dataclass(frozen=True)
class DoubtfulLabel:
    """An image none of whose neighbours has its label.

    Attributes:
        index: Number of the image in the full data set.
        label: Its label.
        proposed: The most frequent label among its neighbours.
        share: Share of the neighbours with that label.
        neighbours: Numbers of the neighbours, nearest first.
    """

    index: int
    label: int
    proposed: int
    share: float
    neighbours: list[int]


def find_duplicates(images: Embeddings, data: FineGrainedDataModule) -> list[Duplicate]:
    """Find pairs of images with equal or nearly equal pixels among those with the most similar embeddings.

    The :data:`CANDIDATES` most similar pairs of nearest neighbours are compared by their pixels: an encoder also finds
    different images of the same thing similar, which are no duplicates. Plain images are found if they are equal.

    Args:
        images: Embeddings of the images.
        data: The data set that the images are read from.

    Returns:
        The pairs: equal ones first, then by falling similarity.
    """
    similarity, rows = nearest_others(images.features, k=3)
    best: dict[tuple[int, int], float] = {}
    for i, (values, others) in enumerate(zip(similarity.tolist(), rows.tolist(), strict=True)):
        for value, j in zip(values, others, strict=True):
            best[min(i, j), max(i, j)] = value
    pairs = sorted(best, key=lambda pair: (-best[pair], pair))[:CANDIDATES]
    small = cache(lambda i: _small(_load(data, i)))
    found = []
    for pair in pairs:
        first, second = (int(images.index[row]) for row in pair)
        alike = float((small(first) * small(second)).sum())
        plain = not small(first).any() and not small(second).any()
        exact = (plain or alike > 0.999) and _equal(_load(data, first), _load(data, second))
        if exact or alike >= ALIKE:
            found.append(Duplicate(first, second, best[pair], exact))
    return sorted(found, key=lambda pair: (not pair.exact, -pair.similarity))


def located(pair: Duplicate, data: FineGrainedDataModule) -> LocatedPair:
    """Name the images of a pair."""
    first, second = (_located_image(index, data) for index in (pair.first, pair.second))
    return LocatedPair(first, second, pair.similarity, pair.exact)


def _located_image(index: int, data: FineGrainedDataModule) -> LocatedImage:
    split, number = data.locate(index)
    source = data.sources[split]
    label = int(source.labels[number])
    return LocatedImage(
        index, split, source.name(number), data.classes[label] if label >= 0 else None
    )


def with_equal_files(
    pairs: Sequence[Duplicate], groups: Sequence[tuple[int, ...]], images: Embeddings
) -> list[Duplicate]:
    """Add the pairs of groups of equal images, each image with the first of its group.

    Args:
        pairs: Pairs of :func:`find_duplicates`.
        groups: Numbers of equal images, in ascending order (:func:`ppssl.data.survey.equal_files`).
        images: Embeddings of all images.

    Returns:
        The pairs: equal ones first, then by falling similarity.
    """
    points = unit_rows(images.features).float()
    row_of = {int(index): row for row, index in enumerate(images.index)}
    merged = {(pair.first, pair.second): pair for pair in pairs}
    for first, *others in groups:
        for second in others:
            rows = [row_of.get(index) for index in (first, second)]
            if None in rows:  # one cannot be read
                continue
            similarity = float(points[rows[0]] @ points[rows[1]])
            merged[first, second] = Duplicate(first, second, similarity, True)
    return sorted(merged.values(), key=lambda pair: (not pair.exact, -pair.similarity))


def doubtful_labels(images: Embeddings, *, k: int = 10, share: float = 0.6) -> list[DoubtfulLabel]:
    """Find images whose label no neighbour has, while most neighbours agree on another one.

    Args:
        images: Embeddings of images; those without a label are left out.
        k: Number of neighbours.
        share: Share of the neighbours that have the other label, at least, in (0, 1].

    Returns:
        The images, those whose neighbours agree most first.
    """
    check_range("in (0, 1]", share=share)
    known = (images.labels >= 0).nonzero()[:, 0]
    labels, index = images.labels[known], images.index[known]
    _, rows = nearest_others(images.features[known], k=k)
    theirs = labels[rows]
    contradicted = ((theirs != labels[:, None]).all(dim=1) & (rows.shape[1] > 0)).nonzero()[:, 0]
    found = []
    for row in contradicted.tolist():
        values, counts = theirs[row].unique(return_counts=True)
        most = int(counts.argmax())
        agreed = float(counts[most]) / rows.shape[1]
        if agreed >= share:
            numbers = index[rows[row]].tolist()
            label, proposed = int(labels[row]), int(values[most])
            found.append(DoubtfulLabel(int(index[row]), label, proposed, agreed, numbers))
    return sorted(found, key=lambda doubt: -doubt.share)


def nearest_others(features: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    """The nearest other images of each image by cosine similarity, in float32.

    Args:
        features: ``(N, D)`` floating point, not normalised.
        k: Number of neighbours, >= 1; at most N - 1 are returned.

    Returns:
        Similarities ``(N, k)`` float32, and rows ``(N, k)`` int64, nearest first.
    """
    check_range(">= 1", k=k)
    points = unit_rows(features).float()
    k = min(k, max(0, len(points) - 1))
    parts = []
    for rows in torch.arange(len(points)).split(chunk_length(max(1, len(points)), None)):
        similarity = points[rows] @ points.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        parts.append(similarity.topk(k, dim=1))
    if not parts:
        return torch.empty(0, 0), torch.empty(0, 0, dtype=torch.int64)
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _load(data: FineGrainedDataModule, index: int) -> Image.Image:
    split, number = data.locate(index)
    return data.sources[split].load(number)


def _small(image: Image.Image) -> np.ndarray:
    """Standardised small grey pixels of an image, ``(P,)`` float32."""
    pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return standardised(pixels.reshape(1, -1, 1) / 255)[0]


def _equal(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and first.tobytes() == second.tobytes()
