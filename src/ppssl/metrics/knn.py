"""Nearest-neighbour classification of frozen embeddings (Wu et al. 2018, "InstDisc", arXiv:1805.01978, section 3.4).

A query's ``k`` nearest gallery images, at cosine similarities ``s_i``, vote for their classes::

    class = argmax_c  sum over neighbours i of class c of w_i,    w_i = exp(s_i / T) ("softmax") or 1 ("uniform")

"softmax" with T = 0.07 is what self-supervised papers report; "uniform" is sklearn's
``KNeighborsClassifier(metric="cosine")``. For k = 1 they agree. Nothing depends on the order of the images: at equal
similarity the smaller label is the nearer neighbour, and of classes with equal votes the smaller label wins (sklearn's
rule for votes; for neighbours it has none). Similarities are float64 for the reasons given in `retrieval`.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ppssl.metrics.retrieval import (
    GRID,
    EmbeddingMetric,
    check_embeddings,
    chunk_length,
    cosine_similarity,
    unit_rows,
)
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.errors import ArgumentError

__all__ = ["KNNClassifier", "Weighting", "knn_neighbours", "knn_predict", "knn_vote"]

Weighting = Literal["softmax", "uniform"]
MAX_GALLERY = 2**22


def knn_predict(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    *,
    k: int,
    weighting: Weighting = "softmax",
    temperature: float = 0.07,
    chunk_size: int | None = None,
) -> Tensor:
    """The class of each query by the vote of its ``k`` nearest gallery images.

    Args:
        gallery: ``(N, D)`` floating point, of any length; normalised here.
        gallery_labels: ``(N,)`` integer, on any device; images with a negative (unknown) label do not vote.
        queries: ``(Q, D)`` floating point, on the device of ``gallery``.
        k: Neighbours that vote, at most the number of labelled gallery images.
        weighting: "softmax" for votes of exp(similarity / temperature), "uniform" for equal ones.
        temperature: > 0; not used by "uniform".
        chunk_size: Queries compared at once; None keeps the similarities of a chunk within 32 MiB.

    Returns:
        Labels, ``(Q,)`` int64, on the device of ``gallery``.
    """
    similarity, labels = knn_neighbours(
        gallery, gallery_labels, queries, k=k, chunk_size=chunk_size
    )
    return knn_vote(similarity, labels, weighting=weighting, temperature=temperature)


@torch.no_grad()
def knn_neighbours(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    *,
    k: int,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Each query's ``k`` nearest labelled gallery images, nearest first; arguments as for `knn_predict`.

    Returns:
        Cosine similarities ``(Q, k)`` float64, and labels ``(Q, k)`` int64.
    """
    gallery_labels = gallery_labels.to(gallery.device)
    order = _gallery_order(gallery, gallery_labels, queries, k)
    points, labels = unit_rows(gallery[order]), gallery_labels[order].long()
    probes = unit_rows(queries)
    # Similarities are multiples of 1 / GRID in [-1, 1]: these steps order equal ones and change no other order. topk
    # alone leaves the order of ties open, and a stable sort takes ten times as long.
    step = torch.arange(len(order), dtype=torch.float64, device=points.device) * 2.0**-52
    similarity = probes.new_empty(len(probes), k)
    neighbour = torch.empty(len(probes), k, dtype=torch.int64, device=probes.device)
    length = chunk_length(len(points), chunk_size)
    for start in range(0, len(probes), length):
        part = slice(start, start + length)
        nearest = (cosine_similarity(probes[part], points) - step).topk(k, dim=1)
        similarity[part] = (nearest.values * GRID).ceil() / GRID  # takes the step off again
        neighbour[part] = labels[nearest.indices]
    return similarity, neighbour


def knn_vote(
    similarity: Tensor,
    labels: Tensor,
    *,
    weighting: Weighting = "softmax",
    temperature: float = 0.07,
) -> Tensor:
    """The class with most votes: similarities ``(Q, k)``, nearest first, and labels ``(Q, k)`` -> ``(Q,)``."""
    _check_vote(weighting, temperature)
    weights = torch.ones_like(similarity)
    if weighting == "softmax":
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = torch.zeros_like(similarity)
    # One neighbour after the other: one order of summation on every device.
    for weight, label in zip(weights.T, labels.T, strict=True):
        votes += weight[:, None] * (labels == label[:, None])
    votes = (votes * GRID).round_()  # equal sums, added up in another order, stay equal
    winners = votes == votes.amax(dim=1, keepdim=True)
    return labels.where(winners, torch.iinfo(labels.dtype).max).amin(dim=1)


class KNNClassifier(EmbeddingMetric):
    """Top-1 accuracy of nearest-neighbour classification, with a gallery and queries that both come in batches.

    ``compute`` gives a dict of float32 scalars in [0, 1] with a key ``knn-<k>`` for each ``k``: means over the queries
    with a known label; NaN, with a warning, if there are none. Images with a negative (unknown) label count on neither
    side, and of images with the same index on the same side the first counts. Gallery and queries may number
    their images independently (two splits often both start at 0), so an image that is in both *does* find itself.
    """

    higher_is_better = True

    def __init__(
        self,
        k: Sequence[int] = (1, 5, 20),
        *,
        weighting: Weighting = "softmax",
        temperature: float = 0.07,
        fewer: bool = False,
        **kwargs: Any,
    ) -> None:
        """Options as for `knn_predict`; ``kwargs`` go to `torchmetrics.Metric`.

        ``fewer``: all labelled images of a gallery vote that has less than ``k``; the result is NaN if it has none.
        """
        super().__init__("gallery_", "query_", **kwargs)
        if not k or min(k) < 1:
            raise ArgumentError(f"`k` must be one or more integers >= 1, got {tuple(k)}.")
        _check_vote(weighting, temperature)
        self.k = tuple(k)
        self.weighting: Weighting = weighting
        self.temperature = temperature
        self.fewer = fewer

    def update(
        self, embeddings: Tensor, labels: Tensor, index: Tensor, *, gallery: bool = False
    ) -> None:
        """Add a batch to the queries, or to the gallery: ``(B, D)`` floating point, ``(B,)`` and ``(B,)`` integers."""
        self._append(embeddings, labels, index, "gallery_" if gallery else "query_")

    def compute(self) -> dict[str, Tensor]:
        """The accuracy for each ``k``."""
        gallery, gallery_labels, _ = self._rows("gallery_")
        queries, labels, _ = self._rows("query_")
        queries, labels = queries[labels >= 0], labels[labels >= 0]
        available = int((gallery_labels >= 0).sum())
        if self.fewer and available == 0:
            return self._result({f"knn-{k}": math.nan for k in self.k})
        k_max = min(max(self.k), available) if self.fewer else max(self.k)
        similarity, neighbour = knn_neighbours(gallery, gallery_labels, queries, k=k_max)
        accuracy = {}
        for k in self.k:
            predicted = knn_vote(
                similarity[:, :k],
                neighbour[:, :k],
                weighting=self.weighting,
                temperature=self.temperature,
            )
            accuracy[f"knn-{k}"] = (predicted == labels).double().mean().item()
        return self._result(accuracy)


def _gallery_order(gallery: Tensor, labels: Tensor, queries: Tensor, k: int) -> Tensor:
    """Rows of the gallery that may vote, by label; raises where the arguments do not fit together."""
    check_embeddings(gallery, labels=labels)
    check_embeddings(queries)
    if gallery.shape[1] != queries.shape[1]:
        raise ValueError(
            f"`gallery` and `queries` must have as many dimensions, "
            f"got {gallery.shape[1]} and {queries.shape[1]}."
        )
    order = labels.argsort(stable=True)
    order = order[labels[order] >= 0]
    if not 1 <= k <= len(order):
        raise ArgumentError(
            f"`k` must be between 1 and the number of labelled gallery images, {len(order)}, got {k}."
        )
    if len(order) > MAX_GALLERY:
        raise ValueError(
            f"The gallery must have at most {MAX_GALLERY} images, got {len(order)}: use a part of it."
        )
    return order


def _check_vote(weighting: str, temperature: float) -> None:
    check_choice(get_args(Weighting), weighting=weighting)
    check_range("> 0", temperature=temperature)
