"""Classes that are most taken for each other, by the kNN classifier of the evaluation, with their images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppssl.metrics.classification import confused_pairs, confusion_matrix
from ppssl.metrics.knn import knn_predict
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import LeftOut, Section, per_run

__all__ = ["section"]

K = 5
"""Neighbours that vote."""
PAIRS = 8
"""Number of pairs of classes."""
EXAMPLES = 4
"""Images of each class of a pair."""


def section(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section."""
    return per_run(
        "confusions",
        "Classes that are taken for each other",
        runs,
        lambda m: _content(m, pictures[m.run.name]),
    )


def _content(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    if measured.splits is None:
        raise LeftOut(measured.no_labels)
    if len(measured.data.classes) < 2:
        raise LeftOut("There is one class only, which cannot be taken for another one.")
    gallery, queries = measured.splits.gallery, measured.splits.queries
    keep = queries.labels >= 0
    index, labels = queries.index[keep], queries.labels[keep]
    k = min(K, len(gallery.labels))
    predicted = knn_predict(gallery.features, gallery.labels, queries.features[keep], k=k).cpu()
    confusion = confusion_matrix(labels, predicted, len(measured.data.classes))
    pairs = confused_pairs(confusion, PAIRS)
    if not pairs:
        raise LeftOut("No test image is taken for another class.")
    wrong = int((predicted != labels).sum())
    return {
        "k": k,
        "wrong": wrong,
        "total": len(labels),
        "pairs": [
            [
                _side(measured, pictures, confusion, (index, labels, predicted), *sides)
                for sides in (pair, pair[::-1])
            ]
            for pair in pairs
        ],
    }


def _side(
    measured: Measured,
    pictures: Pictures,
    confusion: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    this: int,
    other: int,
) -> dict[str, Any]:
    """One class of a pair: how many of it were taken for the other, and images, those that were first."""
    index, labels, predicted = rows
    of_class = torch.nonzero(labels == this)[:, 0]
    taken = predicted[of_class] == other
    order = torch.argsort((~taken).int(), stable=True)[:EXAMPLES]
    return {
        "name": measured.class_name(this),
        "other": measured.class_name(other),
        "taken": int(confusion[this, other]),
        "total": len(of_class),
        "images": [
            {"uri": pictures.uri(int(index[of_class[i]])), "taken": bool(taken[i])} for i in order
        ],
    }
