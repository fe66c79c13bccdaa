"""Image retrieval as fine-grained papers report it: every image queries all the others of its split.

Similarity is the cosine of the embeddings, relevance is equality of labels, and the query itself is left out.
For a query with ``R`` relevant images, of which one at similarity ``s`` has ``rel(s)`` relevant images and ``all(s)``
images of any class at ``s`` or nearer, itself included in both counts::

    AP     = 1/R * sum over relevant images of rel(s) / all(s)     (= sklearn's average_precision_score)
    rank-k = 1 if fewer than k irrelevant images are at s* or nearer, s* = the nearest relevant image's similarity

Both depend on the similarities alone, never on the order of the images. Ties count against the query: tied images share
one threshold in AP, and at equal similarity the irrelevant ones come first in rank-k, so an encoder that gives every
image the same embedding gets rank-k 0 (if k is at most the number of irrelevant images) and an AP of the class's share.

Similarities are computed in float64 and rounded to 2**-30, so that the numbers are the same for every chunk size, order
and device: float64 is touched neither by autocast nor by TF32, and the rounding keeps equal images tied.
"""

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
GRID = 2.0**30
CHUNK_ELEMENTS = 2**22
"""Largest similarity matrix held at once: 32 MiB of float64."""
_STATE_DTYPES = (torch.float32, torch.int64)


@dataclass(frozen=True)
class RetrievalPerQuery:
    """One entry for each image, in the order given.

    Attributes:
        average_precision: ``(N,)`` float64 in (0, 1]; NaN where the image is no valid query.
        first_rank: ``(N,)`` int64, the rank from 1 of the nearest relevant image; 0 where the image is no valid query.
        valid: ``(N,)`` bool: the label is known, and at least one other image has it.
    """

    average_precision: Tensor
    first_rank: Tensor
    valid: Tensor

    def hits(self, k: int) -> Tensor:
        """Whether a relevant image is among the first ``k``: ``(N,)`` bool; False where the image is no valid query."""
        if k < 1:
            raise ValueError(f"`k` must be >= 1, got {k}.")
        return self.valid & (self.first_rank <= k)

    def means(self) -> dict[str, float]:
        """The means over the valid queries: ``rank-1``, ``rank-5`` and ``mAP`` in [0, 1]; NaN if there is none."""
        rows = {f"rank-{k}": self.hits(k)[self.valid].double() for k in RANKS}
        rows["mAP"] = self.average_precision[self.valid]
        return {name: row.mean().item() for name, row in rows.items()}


def retrieval_metrics(
    embeddings: Tensor, labels: Tensor, *, chunk_size: int | None = None
) -> dict[str, float]:
    """Mean rank-1, rank-5 and mAP of a set of images, each image being counted once.

    Args:
        embeddings: ``(N, D)`` floating point, of any length; normalised here.
        labels: ``(N,)`` integer; a negative label is unknown, and its image neither queries nor is found.
        chunk_size: Queries compared at once; None keeps the similarities of a chunk within 32 MiB.

    Returns:
        ``rank-1``, ``rank-5`` and ``mAP`` in [0, 1]; NaN if no image has another one of its class.
    """
    return per_query_retrieval(embeddings, labels, chunk_size=chunk_size).means()


@torch.no_grad()
def per_query_retrieval(
    embeddings: Tensor, labels: Tensor, *, chunk_size: int | None = None
) -> RetrievalPerQuery:
    """Average precision and first relevant rank of each image; arguments as for `retrieval_metrics`.

    Takes O(N^2 (D + log N)) time and O(N D) memory.
    """
    check_embeddings(embeddings, labels=labels)
    known = (labels >= 0).nonzero()[:, 0]
    points, classes = unit_rows(embeddings[known]), labels[known].unique(return_inverse=True)[1]
    precision = points.new_full((len(labels),), torch.nan)
    first_rank = torch.zeros_like(labels, dtype=torch.int64)
    size = classes.bincount() if len(classes) else classes
    queries = (size[classes] > 1).nonzero()[:, 0]
    members = classes.argsort(stable=True)
    for rows, similarity in _similarity_chunks(points, queries, chunk_size):
        relevant = _relevant_columns(classes[rows], size, members)
        rank, ap = _rank_and_precision(-similarity, relevant)
        precision[known[rows]], first_rank[known[rows]] = ap, rank
    return RetrievalPerQuery(precision, first_rank, first_rank > 0)


def _similarity_chunks(
    points: Tensor, queries: Tensor, chunk_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some rows ``(c,)`` of ``queries`` and their similarities ``(c, N)``, -inf to themselves."""
    if not len(queries):
        return  # `split` gives one empty part
    for rows in queries.split(chunk_length(len(points), chunk_size)):
        similarity = cosine_similarity(points[rows], points)
        similarity[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        yield rows, similarity


def _relevant_columns(query_class: Tensor, size: Tensor, members: Tensor) -> Tensor:
    """The images of each query's class, ``(c, largest class)``; -1 fills the rows of smaller classes."""
    start = size.cumsum(0) - size
    step = torch.arange(int(size[query_class].max()), device=size.device)
    inside = step < size[query_class, None]
    return members[(start[query_class, None] + step).where(inside, 0)].where(inside, -1)


def _rank_and_precision(distance: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """First relevant rank ``(c,)`` int64 and average precision ``(c,)`` float64 of each query.

    Args:
        distance: ``(c, N)``; +inf to the query itself.
        relevant: ``(c, R)`` columns of the query's class, itself included; -1 is no column.
    """
    wanted = distance.gather(1, relevant.clamp(min=0)).where(relevant >= 0, torch.inf)
    wanted = wanted.sort(dim=1).values  # (c, R), then +inf
    all_within = torch.searchsorted(_sorted_rows(distance), wanted, right=True)
    wanted_within = torch.searchsorted(wanted, wanted, right=True)
    found = wanted.isfinite()
    precision = (wanted_within.double() / all_within).where(found, 0).sum(1) / found.sum(1)
    return (all_within - wanted_within)[:, 0] + 1, precision


def _sorted_rows(values: Tensor) -> Tensor:
    """Each row in ascending order; NumPy's sort, without indices, is ten times as fast as torch's on the CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def unit_rows(embeddings: Tensor) -> Tensor:
    """``(N, D)`` float64 rows of length 1 (an all-zero row stays zero: it is at similarity 0 to everything).

    Raises ``ValueError`` where a row is not finite.
    """
    finite = embeddings.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(
            f"`embeddings` must be finite, got NaN or infinity in {(~finite).sum()} of {len(finite)} rows."
        )
    rows = embeddings.to(torch.float64, copy=True)
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1, keepdim=True)
    rows /= largest.where(largest > 0, 1)  # now no square under- or overflows
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows /= length.where(length > 0, 1)
    return rows


def cosine_similarity(left: Tensor, right: Tensor) -> Tensor:
    """Cosines of `unit_rows`, rounded to 2**-30 so that ties survive: ``(M, D), (N, D) -> (M, N)`` float64."""
    return (left @ right.T).mul_(GRID).round_().div_(GRID)


def chunk_length(width: int, chunk_size: int | None) -> int:
    """Rows to hold at once where each takes ``width`` numbers."""
    if chunk_size is None:
        return max(1, CHUNK_ELEMENTS // max(1, width))
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, got {chunk_size}.")
    return chunk_size


def first_occurrence(index: Tensor) -> Tensor:
    """Positions, ascending, of the first of each value: ``(N,) -> (M,)`` int64, ``M <= N``."""
    values, inverse = index.unique(return_inverse=True)
    position = torch.arange(len(index), device=index.device)
    first = torch.full_like(values, len(index), dtype=torch.int64)
    return first.scatter_reduce_(0, inverse, position, reduce="amin").sort().values


def check_embeddings(embeddings: Tensor, **integers: Tensor) -> None:
    """Check shapes and kinds, which does not wait for the device: ``(N, D)`` floating point, ``(N,)`` integers."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"`embeddings` must be (N, D) floating point, got {tuple(embeddings.shape)} {embeddings.dtype}."
        )
    for name, value in integers.items():
        if value.shape != embeddings.shape[:1] or value.is_floating_point() or value.is_complex():
            raise ValueError(
                f"`{name}` must be ({len(embeddings)},) integers like `embeddings`, "
                f"got {tuple(value.shape)} {value.dtype}."
            )


def gather_rows(rows: Tensor, group: Any | None = None) -> list[Tensor]:
    """Each rank's rows, in rank order; a rank without any, of unknown width and dtype, gives none."""
    width = rows.shape[1] if rows.ndim == 2 else 0
    kind = [rows.ndim, width, _STATE_DTYPES.index(rows.dtype)] if rows.numel() else [0, 0, 0]
    kinds = gather_all_tensors(torch.tensor(kind, device=rows.device), group)
    ndim, width, dtype = torch.stack(kinds).amax(0).tolist()
    if not rows.numel() and ndim:
        rows = rows.new_zeros((0, width)[:ndim], dtype=_STATE_DTYPES[dtype])
    return gather_all_tensors(rows, group)


class EmbeddingMetric(Metric):
    """Base of metrics over whole sets of images: keeps each image's embedding, label and index.

    Embeddings are kept as float32 on the metric's device (`compute_on_cpu=True` keeps them on the CPU). Rows are
    gathered over ranks, which may have seen different numbers of them, or none; of rows with the same index (the
    padding of a `DistributedSampler`) the first counts.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, *sets: str, **kwargs: Any) -> None:
        """``sets`` are prefixes of the states, one for each set of images kept; ``kwargs`` go to `Metric`."""
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        for prefix in sets or ("",):
            for name in ("embeddings", "labels", "index"):
                self.add_state(prefix + name, default=[], dist_reduce_fx="cat")

    def _append(self, embeddings: Tensor, labels: Tensor, index: Tensor, prefix: str = "") -> None:
        check_embeddings(embeddings, labels=labels, index=index)
        kept = getattr(self, prefix + "embeddings")
        if isinstance(kept, list) and kept and kept[0].shape[1:] != embeddings.shape[1:]:
            raise ValueError(
                f"`embeddings` must all have {kept[0].shape[1]} dimensions as the first batch, "
                f"got {embeddings.shape[1]}."
            )
        kept.append(embeddings.detach().to(self.device, torch.float32))
        for name, rows in (("labels", labels), ("index", index)):
            getattr(self, prefix + name).append(rows.to(self.device, torch.int64))

    def _rows(self, prefix: str = "") -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings ``(N, D)``, labels ``(N,)`` and index ``(N,)``, one row for each index."""
        states = [getattr(self, prefix + name) for name in ("embeddings", "labels", "index")]
        if any(len(state) == 0 for state in states):
            raise ValueError(
                f"`compute` needs {prefix.strip('_') or 'some'} images: call `update` first."
            )
        embeddings, labels, index = (dim_zero_cat(state) for state in states)
        keep = first_occurrence(index)
        if len(keep) < len(index):
            embeddings, labels, index = embeddings[keep], labels[keep], index[keep]
        device = "cpu" if index.device.type == "mps" else index.device  # there is no float64 on MPS
        return embeddings.to(device), labels.to(device), index.to(device)

    def _result(self, values: dict[str, float]) -> dict[str, Tensor]:
        """Float32 scalars on the metric's device, with one warning where there was nothing to average."""
        if any(value != value for value in values.values()):
            rank_zero_warn(
                f"{type(self).__name__}: no valid query, so the result is NaN.", UserWarning
            )
        return {name: torch.tensor(v, device=self.device) for name, v in values.items()}


class RetrievalMetrics(EmbeddingMetric):
    """Rank-1, rank-5 and mAP of all images seen, each against all the others; see the module's docstring.

    ``compute`` gives a dict of float32 scalars in [0, 1] with the keys ``rank-1``, ``rank-5`` and ``mAP``: means over
    the images with a known label that at least one other image has; NaN, with a warning, if there are none. Images
    with a negative (unknown) label are left out altogether, as queries and as answers.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def update(self, embeddings: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch: ``(B, D)`` floating point of any length, ``(B,)`` integers, ``(B,)`` image numbers."""
        self._append(embeddings, labels, index)

    def compute(self) -> dict[str, Tensor]:
        """The three means over all valid queries."""
        embeddings, labels, _ = self._rows()
        return self._result(retrieval_metrics(embeddings, labels))
