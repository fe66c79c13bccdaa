"""Bootstrap 95 % intervals of means over test images and over seeds.

Percentile intervals (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3): the 2.5 % and 97.5 %
quantiles of the mean over resamples with replacement. Always the same resamples for as many seeds and images.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ppssl.utils import randomness

__all__ = ["LEVELS", "RESAMPLES", "image_intervals", "resamples"]

RESAMPLES = 2000
LEVELS = (0.025, 0.975)


def resamples(seeds: int, images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield resamples with replacement: the seeds drawn, ``(S,)``, and how often each image is drawn, ``(Q,)``."""
    rng = randomness.generator(0, "bootstrap")
    for _ in range(RESAMPLES):
        drawn = rng.integers(seeds, size=seeds)
        yield drawn, rng.multinomial(images, np.full(images, 1 / images))


def image_intervals(values: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Compute the 95 % interval of each metric's mean over images; all metrics have the same resamples.

    Args:
        values: By metric, ``(Q,)`` floating point or bool; NaN where an image does not count.

    Returns:
        Low and high by metric; NaN where no image counts.
    """
    table = np.stack([row.astype(np.float64) for row in values.values()], axis=1)  # (Q, M)
    counts = ~np.isnan(table)
    table = np.where(counts, table, 0)
    with np.errstate(invalid="ignore"):  # a resample may hold no image that counts
        means = np.stack([(w @ table) / (w @ counts) for _, w in resamples(1, len(table))])
    found = {}
    for m, name in enumerate(values):
        low, high = np.nanquantile(means[:, m], LEVELS) if counts[:, m].any() else (np.nan, np.nan)
        found[name] = (float(low), float(high))
    return found
