"""Stratified, seeded selection of the labelled and the held-out training images."""

import numpy as np

from ppssl.data.source import UNKNOWN
from ppssl.utils import randomness

__all__ = ["select_held_out", "select_labelled"]


def select_labelled(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Images whose labels may be used: a fraction of each class.

    Args:
        labels: ``(N,)`` int64, ``UNKNOWN`` for an image without label.
        fraction: Fraction of each class, in (0, 1]; at least one image of each class is selected.
        seed: The run's seed.

    Returns:
        Image numbers, ascending. For equal seeds those of a smaller fraction are a subset of those of a larger one.
    """
    candidates = np.flatnonzero(labels != UNKNOWN)
    rng = randomness.generator(seed, "labelled")
    return _select_per_class(labels, candidates, fraction, rng, num_left=0)


def select_held_out(
    labels: np.ndarray, candidates: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Labelled images that are held out for model selection: a fraction of each class.

    Of each class with two or more labelled images at least one is held out, and never all of them.

    Args:
        labels: ``(N,)`` int64.
        candidates: Numbers of the images whose labels may be used.
        fraction: Fraction of each class, in [0, 1).
        seed: The run's seed.

    Returns:
        Image numbers, ascending; none for fraction 0.
    """
    if fraction == 0:
        return np.empty(0, dtype=np.int64)
    counts = np.bincount(labels[candidates]) if len(candidates) else np.zeros(0)
    candidates = candidates[counts[labels[candidates]] > 1]
    rng = randomness.generator(seed, "held out")
    return _select_per_class(labels, candidates, fraction, rng, num_left=1)


def _select_per_class(
    labels: np.ndarray,
    candidates: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    num_left: int,
) -> np.ndarray:
    """Select the first ``fraction`` of each class in one random order of all images.

    At least one candidate of each class is selected, and at least ``num_left`` are not.
    """
    priority = rng.random(len(labels))
    selected = []
    for label in np.unique(labels[candidates]):
        members = candidates[labels[candidates] == label]
        count = min(max(1, round(fraction * len(members))), len(members) - num_left)
        selected.append(members[np.argsort(priority[members])][:count])
    return np.sort(np.concatenate(selected)) if selected else np.empty(0, dtype=np.int64)
