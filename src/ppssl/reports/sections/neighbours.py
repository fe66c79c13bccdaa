"""Nearest neighbours of twenty query images: hits and misses of the nearest one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppssl.metrics.retrieval import cosine_similarity, unit_rows
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import LeftOut, Section, per_run
from ppssl.reports.sections.metrics import comparable

__all__ = ["section"]

QUERIES = 20
"""Number of queries."""
NEIGHBOURS = 8
"""Number of neighbours of a query."""


def section(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section; two runs that were evaluated on the same images show the same queries."""
    same = _queries(runs[0]) if comparable(runs) else None
    return per_run(
        "neighbours",
        "Nearest neighbours",
        runs,
        lambda m: _content(m, pictures[m.run.name], _queries(m) if same is None else same),
    )


def _sets(measured: Measured) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and indices of the queries, and of the gallery; without labels both are all images."""
    if measured.splits is None:
        images = measured.images
        return images.features, images.index, images.features, images.index
    queries, gallery = measured.splits.queries, measured.splits.gallery
    keep = queries.labels >= 0
    features = queries.features.cpu()[keep], queries.index[keep]
    return *features, gallery.features.cpu(), gallery.index


def _nearest(measured: Measured, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices ``(Q, k)`` of the nearest gallery images of queries, themselves left out."""
    features, query_index, gallery, gallery_index = _sets(measured)
    rows = torch.from_numpy(np.searchsorted(query_index.numpy(), index.numpy()))
    similarity = cosine_similarity(unit_rows(features[rows]), unit_rows(gallery))
    similarity[index[:, None] == gallery_index[None]] = -torch.inf
    # without labels the query is in the gallery
    others = len(gallery_index) - (1 if measured.splits is None else 0)
    nearest = similarity.topk(min(k, others), dim=1)
    return nearest.values, gallery_index[nearest.indices]


def _labels(measured: Measured, index: Tensor) -> Tensor:
    rows = measured.rows(index.flatten())
    return measured.images.labels[torch.from_numpy(rows)].view(index.shape)


def _queries(measured: Measured) -> Tensor:
    """Half hits and half misses of the nearest neighbour where there are enough, each evenly spaced."""
    _, index, gallery, _ = _sets(measured)
    if len(index) < 2 or not len(gallery):
        return index[:0]
    spaced = _spaced(index, 50 * QUERIES)
    if measured.splits is None:
        return _spaced(index, QUERIES)
    _, nearest = _nearest(measured, spaced, 1)
    hit = _labels(measured, nearest)[:, 0] == _labels(measured, spaced)
    hits, misses = int(hit.sum()), int((~hit).sum())
    wanted = min(misses, max(QUERIES // 2, QUERIES - hits))
    chosen = [_spaced(spaced[~hit], wanted), _spaced(spaced[hit], QUERIES - wanted)]
    return torch.cat(chosen)


def _spaced(index: Tensor, count: int) -> Tensor:
    places = np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int)
    return index[torch.from_numpy(places)]


def _content(measured: Measured, pictures: Pictures, queries: Tensor) -> dict[str, Any]:
    if not len(queries):
        raise LeftOut("There are no two images to compare.")
    similarity, nearest = _nearest(measured, queries, NEIGHBOURS)
    labels, theirs = _labels(measured, queries), _labels(measured, nearest)
    labelled = measured.splits is not None
    rows: list[dict[str, Any]] = []
    for q, index in enumerate(queries.tolist()):
        found = [
            {
                "uri": pictures.uri(int(i)),
                "class": measured.class_name(int(label)),
                "similarity": float(value),
                "right": bool(label == labels[q]) if labelled else None,
            }
            for value, i, label in zip(similarity[q], nearest[q], theirs[q], strict=True)
        ]
        rows.append(
            {
                "uri": pictures.uri(index),
                "name": pictures.name(index),
                "class": measured.class_name(int(labels[q])),
                "neighbours": found,
            }
        )
    results = measured.results
    return {
        "groups": _groups(rows) if labelled else {"": rows},
        "labelled": labelled,
        "rate": None if results is None else results.metrics.get("knn-1"),
        "query_split": "" if measured.splits is None else measured.splits.query_split,
    }


def _groups(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Misses and hits of the nearest neighbour."""
    groups: dict[str, list[dict[str, Any]]] = {
        "Misses: the nearest image is of another class": [],
        "Hits: the nearest image is of the same class": [],
    }
    misses, hits = groups.values()
    for row in rows:
        (hits if row["neighbours"][0]["right"] else misses).append(row)
    return groups
