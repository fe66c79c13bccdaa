"""Retrieval metrics rank-1, rank-5 and mAP: each image of a split is a query against all other images of the split.

Similarity is the cosine of the embeddings, an image is relevant if it has the query's label, and the query itself is
left out. For a query with ``R`` relevant images, let ``rel(s)`` be the number of relevant images and ``all(s)`` the
number of all images with a similarity of at least ``s``::

    AP     = 1/R * sum over relevant images of rel(s) / all(s)     (= sklearn's average_precision_score)
    rank-k = 1 if fewer than k irrelevant images have a similarity >= s*, s* = that of the nearest relevant image

Both depend only on the similarities, not on the order of the images. Ties count against the query: tied images share
one threshold in AP, and irrelevant images come first in rank-k. An encoder with the same embedding for every image has
rank-k 0 (if there are at least k irrelevant images) and the fraction of its class as AP.

Similarities are computed in float64 and rounded to 2**-30, so that the results are the same for every chunk size, order
and device: neither autocast nor TF32 affects float64, and after rounding equal images are exactly tied.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from ppssl.utils.checks import check_range
from ppssl.utils.errors import ArgumentError

__all__ = [
    "EmbeddingMetric",
    "RetrievalMetrics",
    "RetrievalPerQuery",
    "check_embeddings",
    "chunk_length",
    "cosine_similarity",
    "first_occurrence",
    "gather_rows",
    "per_query_retrieval",
    "retrieval_metrics",
    "unit_rows",
]

RANKS = (1, 5)
"""The values of k of rank-k."""
GRID = 2.0**30
"""Similarities are rounded to multiples of 1 / GRID."""
CHUNK_ELEMENTS = 2**22
"""Largest number of similarities in memory: 32 MiB of float64."""
_STATE_DTYPES = (torch.float32, torch.int64)


@dataclass(frozen=True)
class RetrievalPerQuery:
    """Retrieval results of each query, in the order of the images and on their device.

    Attributes:
        average_precision: ``(N,)`` float64 in (0, 1]; NaN for invalid queries.
        first_rank: ``(N,)`` int64, rank of the nearest relevant image, from 1; 0 for invalid queries.
        valid: ``(N,)`` bool, valid queries: the label is known, and at least one other image has the same label.
    """

    average_precision: Tensor
    first_rank: Tensor
    valid: Tensor

    def values(self) -> dict[str, Tensor]:
        """``rank-1``, ``rank-5`` and ``mAP`` of each query: ``(N,)`` float64 in [0, 1]; NaN for invalid queries."""
        hits = {f"rank-{k}": (self.first_rank <= k).double() for k in RANKS}
        ranks = {name: hit.where(self.valid, torch.nan) for name, hit in hits.items()}
        return ranks | {"mAP": self.average_precision}

    def means(self) -> dict[str, float]:
        """Means of :meth:`values` over the valid queries; NaN without a valid query."""
        return {name: each[self.valid].mean().item() for name, each in self.values().items()}


def retrieval_metrics(
    embeddings: Tensor, labels: Tensor, *, chunk_size: int | None = None
) -> dict[str, float]:
    """Compute rank-1, rank-5 and mAP of a set of images.

    Args:
        embeddings: ``(N, D)`` floating point, need not be normalised.
        labels: ``(N,)`` integer, on any device; images with a negative (unknown) label are not used.
        chunk_size: Number of queries compared at once; None limits the similarities of a chunk to 32 MiB.

    Returns:
        ``rank-1``, ``rank-5`` and ``mAP`` in [0, 1], means over the valid queries; NaN if no class has two images.
    """
    return per_query_retrieval(embeddings, labels, chunk_size=chunk_size).means()


@torch.no_grad()
def per_query_retrieval(
    embeddings: Tensor, labels: Tensor, *, chunk_size: int | None = None
) -> RetrievalPerQuery:
    """Compute average precision and first relevant rank of each query; arguments as for `retrieval_metrics`.

    Takes O(N^2 (D + log N)) time and O(N D) memory.
    """
    check_embeddings(embeddings, labels=labels)
    labels = labels.to(embeddings.device)
    labelled = (labels >= 0).nonzero()[:, 0]
    points = unit_rows(embeddings[labelled])
    classes = labels[labelled].unique(return_inverse=True)[1]
    precision = points.new_full((len(labels),), torch.nan)
    first_rank = torch.zeros_like(labels, dtype=torch.int64)
    size = classes.bincount() if len(classes) else classes
    queries = (size[classes] > 1).nonzero()[:, 0]
    members = classes.argsort(stable=True)
    step = torch.arange(int(size.max()) if len(size) else 0, device=size.device)
    for rows, similarity in _similarity_chunks(points, queries, chunk_size):
        relevant = _relevant_columns(classes[rows], size, members, step)
        rank, ap = _rank_and_precision(-similarity, relevant)
        precision[labelled[rows]], first_rank[labelled[rows]] = ap, rank
    return RetrievalPerQuery(precision, first_rank, first_rank > 0)


def _similarity_chunks(
    points: Tensor, queries: Tensor, chunk_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of ``queries``, ``(c,)``, and their similarities ``(c, N)``, -inf to themselves."""
    if not len(queries):
        return  # `split` would return one empty chunk
    for rows in queries.split(chunk_length(len(points), chunk_size)):
        similarity = cosine_similarity(points[rows], points)
        similarity[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        yield rows, similarity


def _relevant_columns(query_class: Tensor, size: Tensor, members: Tensor, step: Tensor) -> Tensor:
    """The images of each query's class, ``(c, size of the largest class)``, padded with -1; ``step`` counts them."""
    start = size.cumsum(0) - size
    inside = step < size[query_class, None]
    return members[(start[query_class, None] + step).where(inside, 0)].where(inside, -1)


def _rank_and_precision(distance: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """First relevant rank ``(c,)`` int64 and average precision ``(c,)`` float64 of each query.

    Args:
        distance: ``(c, N)``; +inf to the query itself.
        relevant: ``(c, R)`` columns of the images of the query's class, itself included; -1 is padding.
    """
    relevant_distance = distance.gather(1, relevant.clamp(min=0)).where(relevant >= 0, torch.inf)
    relevant_distance = relevant_distance.sort(dim=1).values  # (c, R), padding and the query last
    all_within = torch.searchsorted(_sorted_rows(distance), relevant_distance, right=True)
    relevant_within = torch.searchsorted(relevant_distance, relevant_distance, right=True)
    is_image = relevant_distance.isfinite()
    ratio = (relevant_within.double() / all_within).where(is_image, 0)
    return (all_within - relevant_within)[:, 0] + 1, ratio.sum(1) / is_image.sum(1)


def _sorted_rows(values: Tensor) -> Tensor:
    """Sort each row in ascending order; on the CPU NumPy's sort is ten times as fast as torch's, which adds indices."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def unit_rows(embeddings: Tensor) -> Tensor:
    """Normalise embeddings ``(N, D)`` to float64 rows of length 1; all-zero rows stay zero, with similarity 0 to all.

    Raises:
        ValueError: A row is not finite.
    """
    broken = int((~embeddings.isfinite().all(dim=1)).sum())
    if broken:
        wrong = f"got NaN or infinity in {broken} of {len(embeddings)} rows"
        raise ArgumentError(f"`embeddings` must be finite, {wrong}.")
    rows = embeddings.to(torch.float64, copy=True)
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1, keepdim=True)
    rows /= largest.where(largest > 0, 1)  # avoids under- and overflow of the squares
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows /= length.where(length > 0, 1)
    return rows


def cosine_similarity(left: Tensor, right: Tensor) -> Tensor:
    """Cosine similarities of `unit_rows`, rounded to 2**-30 to keep ties: ``(M, D), (N, D) -> (M, N)`` float64."""
    return (left @ right.T).mul_(GRID).round_().div_(GRID)


def chunk_length(width: int, chunk_size: int | None) -> int:
    """Return the number of rows per chunk, each row having ``width`` numbers."""
    if chunk_size is None:
        return max(1, CHUNK_ELEMENTS // max(1, width))
    check_range(">= 1", chunk_size=chunk_size)
    return chunk_size


def first_occurrence(index: Tensor) -> Tensor:
    """Return the positions of the first occurrence of each value, ascending: ``(N,) -> (M,)`` int64, ``M <= N``."""
    values, inverse = index.unique(return_inverse=True)
    position = torch.arange(len(index), device=index.device)
    first = torch.full_like(values, len(index), dtype=torch.int64)
    return first.scatter_reduce_(0, inverse, position, reduce="amin").sort().values


def check_embeddings(embeddings: Tensor, **integers: Tensor) -> None:
    """Check shapes and dtypes: embeddings ``(N, D)`` floating point, others ``(N,)`` integers; no device sync."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"`embeddings` must be (N, D) floating point, got {tuple(embeddings.shape)} {embeddings.dtype}."
        )
    for name, value in integers.items():
        if value.shape != embeddings.shape[:1] or value.is_floating_point() or value.is_complex():
            raise ValueError(
                f"`{name}` must be ({len(embeddings)},) integers, got {tuple(value.shape)} {value.dtype}."
            )


def gather_rows(rows: Tensor, group: Any | None = None) -> list[Tensor]:
    """Gather the rows of all processes, in rank order; a process may have no rows, and then no width and dtype."""
    width = rows.shape[1] if rows.ndim == 2 else 0
    layout = [rows.ndim, width, _STATE_DTYPES.index(rows.dtype)] if rows.numel() else [0, 0, 0]
    layouts = gather_all_tensors(torch.tensor(layout, device=rows.device), group)
    ndim, width, dtype = torch.stack(layouts).amax(0).tolist()
    if not rows.numel() and ndim:
        rows = rows.new_zeros((0, width)[:ndim], dtype=_STATE_DTYPES[dtype])
    return gather_all_tensors(rows, group)


class EmbeddingMetric(Metric):
    """Base class of metrics over sets of images: collects the embedding, label and index of each image.

    Embeddings are kept as float32 on the metric's device (on the CPU with `compute_on_cpu=True`) and gathered over
    processes with any number of images. Of several rows with one index (padding of a sampler) the first counts.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, *sets: str, **kwargs: Any) -> None:
        """Create the states; ``sets`` are their prefixes, one per set of images, ``kwargs`` are passed to `Metric`."""
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        for prefix in sets or ("",):
            for name in ("embeddings", "labels", "index"):
                self.add_state(prefix + name, default=[], dist_reduce_fx="cat")

    def _append(self, embeddings: Tensor, labels: Tensor, index: Tensor, prefix: str = "") -> None:
        check_embeddings(embeddings, labels=labels, index=index)
        batches = getattr(self, prefix + "embeddings")
        if isinstance(batches, list) and batches and batches[0].shape[1:] != embeddings.shape[1:]:
            raise ValueError(
                f"`embeddings` must all have {batches[0].shape[1]} dimensions like the first batch, "
                f"got {embeddings.shape[1]}."
            )
        batches.append(embeddings.detach().to(self.device, torch.float32))
        for name, rows in (("labels", labels), ("index", index)):
            getattr(self, prefix + name).append(rows.to(self.device, torch.int64))

    def _rows(self, prefix: str = "") -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings ``(N, D)``, labels ``(N,)`` and index ``(N,)``, one row per index."""
        states = [getattr(self, prefix + name) for name in ("embeddings", "labels", "index")]
        if any(len(state) == 0 for state in states):
            raise ValueError(
                f"`compute` needs {prefix.strip('_') or 'some'} images: call `update` first."
            )
        embeddings, labels, index = (dim_zero_cat(state) for state in states)
        keep = first_occurrence(index)
        if len(keep) < len(index):
            embeddings, labels, index = embeddings[keep], labels[keep], index[keep]
        device = "cpu" if index.device.type == "mps" else index.device  # MPS has no float64
        return embeddings.to(device), labels.to(device), index.to(device)

    def _result(self, values: dict[str, float]) -> dict[str, Tensor]:
        """Convert to float32 scalars on the metric's device; warn once if a value is NaN."""
        if any(math.isnan(value) for value in values.values()):
            name = type(self).__name__
            rank_zero_warn(f"{name}: no valid query, so the result is NaN.", UserWarning)
        return {name: torch.tensor(v, device=self.device) for name, v in values.items()}


class RetrievalMetrics(EmbeddingMetric):
    """Metrics rank-1, rank-5 and mAP over batches and processes: every image is a query against all other images.

    ``compute`` returns ``rank-1``, ``rank-5`` and ``mAP``, defined in the docstring of the module, as float32 scalars
    in [0, 1]: means over the images with a label that another image has; NaN, with a warning, if there are none. Images
    with a negative (unknown) label are left out, as queries and as results.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def update(self, embeddings: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch: embeddings ``(B, D)`` floating point, labels ``(B,)`` and image numbers ``(B,)`` integers."""
        self._append(embeddings, labels, index)

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all valid queries."""
        return self._result(retrieval_metrics(*self._rows()[:2]))
