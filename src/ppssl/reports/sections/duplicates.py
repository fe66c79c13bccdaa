"""Images that occur twice, and labels that the neighbours contradict."""

from collections.abc import Sequence
from typing import Any

import torch

from ppssl.inference.duplicates import (
    CANDIDATES,
    DoubtfulLabel,
    LocatedPair,
    doubtful_labels,
    find_duplicates,
    located,
)
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import LeftOut, Section, per_run

__all__ = ["drawn_pairs", "duplicates", "labels"]

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
    return drawn_pairs([located(pair, measured.data) for pair in found], pictures, SHOWN)


def drawn_pairs(pairs: Sequence[LocatedPair], pictures: Pictures, most: int) -> dict[str, Any]:
    """What the template draws of pairs: those across splits or with two labels first, at most ``most``."""
    shown = sorted(pairs, key=lambda pair: not pair.crosses and not pair.two_labels)[:most]
    return {
        "exact": sum(pair.exact for pair in pairs),
        "near": sum(not pair.exact for pair in pairs),
        "crossing": sum(pair.crosses for pair in pairs),
        "two_labels": sum(pair.two_labels for pair in pairs),
        "candidates": CANDIDATES,
        "pairs": [_drawn(pair, pictures) for pair in shown],
    }


def _drawn(pair: LocatedPair, pictures: Pictures) -> dict[str, Any]:
    return {
        "exact": pair.exact,
        "similarity": pair.similarity,
        "crosses": pair.crosses,
        "other_label": pair.two_labels,
        "images": [
            {
                "uri": pictures.uri(image.index),
                "name": pictures.name(image.index),
                "class": image.class_name or "-",
            }
            for image in (pair.first, pair.second)
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
