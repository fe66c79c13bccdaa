"""Images that occur twice, and labels that the neighbours contradict."""

from collections.abc import Sequence
from typing import Any

import torch

from ppssl.inference.duplicates import (
    CANDIDATES,
    DoubtfulLabel,
    Duplicate,
    doubtful_labels,
    find_duplicates,
)
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import LeftOut, Section, per_run

__all__ = ["duplicates", "labels"]

SHOWN = 20
"""Pairs that are shown."""
DOUBTS = 12
"""Doubtful labels that are shown."""
NEIGHBOURS = 4
"""Neighbours of each."""


def duplicates(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section on duplicates, one for each data set."""
    return per_run(
        "duplicates",
        "Images that occur twice",
        runs,
        lambda m: _duplicates(m, pictures[m.run.name]),
    )


def labels(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section on labels."""
    return per_run("labels", "Labels to look at", runs, lambda m: _labels(m, pictures[m.run.name]))


def _duplicates(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    found = find_duplicates(measured.images, measured.data)
    if not found:
        raise LeftOut(
            f"None among the {CANDIDATES} pairs of images with the most similar embeddings."
        )
    pairs = [_pair(pair, measured, pictures) for pair in found]
    pairs.sort(key=lambda pair: not pair["crosses"] and not pair["other_label"])
    return {
        "exact": sum(pair.exact for pair in found),
        "near": sum(not pair.exact for pair in found),
        "crossing": sum(pair["crosses"] for pair in pairs),
        "two_labels": sum(pair["other_label"] for pair in pairs),
        "candidates": CANDIDATES,
        "pairs": pairs[:SHOWN],
    }


def _pair(pair: Duplicate, measured: Measured, pictures: Pictures) -> dict[str, Any]:
    numbers = (pair.first, pair.second)
    rows = measured.rows(torch.tensor(numbers))
    kinds = [int(measured.images.labels[row]) for row in rows]
    splits = [measured.data.locate(i)[0] for i in numbers]
    return {
        "exact": pair.exact,
        "similarity": pair.similarity,
        "crosses": splits[0] != splits[1],
        "other_label": kinds[0] != kinds[1] and min(kinds) >= 0,
        "images": [
            {"uri": pictures.uri(i), "name": pictures.name(i), "class": measured.class_name(kind)}
            for i, kind in zip(numbers, kinds, strict=True)
        ],
    }


def _labels(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    known = measured.images.labels[measured.images.labels >= 0]
    if len(known.unique()) < 2:
        raise LeftOut("This needs labelled images of two classes.")
    found = doubtful_labels(measured.images)
    if not found:
        raise LeftOut("No label is contradicted by all neighbours of its image.")
    return {
        "count": len(found),
        "total": len(known),
        "doubts": [_doubt(doubt, measured, pictures) for doubt in found[:DOUBTS]],
    }


def _doubt(doubt: DoubtfulLabel, measured: Measured, pictures: Pictures) -> dict[str, Any]:
    shown = doubt.neighbours[:NEIGHBOURS]
    kinds = measured.images.labels[torch.from_numpy(measured.rows(torch.tensor(shown)))]
    return {
        "uri": pictures.uri(doubt.index),
        "name": pictures.name(doubt.index),
        "label": measured.class_name(doubt.label),
        "proposed": measured.class_name(doubt.proposed),
        "share": doubt.share,
        "neighbours": [
            {"uri": pictures.uri(i), "class": measured.class_name(int(kind))}
            for i, kind in zip(shown, kinds, strict=True)
        ],
    }
