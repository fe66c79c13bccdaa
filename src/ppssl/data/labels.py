"""Which labels may be used, and which are held out: stratified, seeded, the smaller part always inside the larger."""

import numpy as np

from ppssl.data.source import UNKNOWN
from ppssl.utils import randomness

__all__ = ["held_out", "labelled"]


def labelled(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The images whose label may be used.

    Args:
        labels: ``(N,)`` int64, ``UNKNOWN`` where there is none.
        fraction: Part of each class, in (0, 1]; at least one image of each.
        seed: The run's seed.

    Returns:
        Their numbers, ascending. For equal seeds a smaller fraction's are among a larger one's.
    """
    known = np.flatnonzero(labels != UNKNOWN)
    return _first(labels, known, fraction, randomness.generator(seed, "labelled"), leave=0)


def held_out(labels: np.ndarray, among: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Part of the labelled images, for choosing models: at least one of each class that has two or more, never all.

    Args:
        labels: ``(N,)`` int64.
        among: Numbers of the images whose label may be used.
        fraction: Part of each class, in [0, 1).
        seed: The run's seed.

    Returns:
        Their numbers, ascending; none for fraction 0.
    """
    if fraction == 0:
        return np.empty(0, dtype=np.int64)
    counts = np.bincount(labels[among]) if len(among) else np.zeros(0)
    among = among[counts[labels[among]] > 1]
    return _first(labels, among, fraction, randomness.generator(seed, "held out"), leave=1)


def _first(
    labels: np.ndarray, among: np.ndarray, fraction: float, rng: np.random.Generator, leave: int
) -> np.ndarray:
    """The first ``fraction`` of each class, in one random order of all images: at least one, at most all but some."""
    priority = rng.random(len(labels))
    chosen = []
    for label in np.unique(labels[among]):
        members = among[labels[among] == label]
        count = min(max(1, round(fraction * len(members))), len(members) - leave)
        chosen.append(members[np.argsort(priority[members])][:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)
