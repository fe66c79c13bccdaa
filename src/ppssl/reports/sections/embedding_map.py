"""Map of the embedding: images near each other have similar embeddings (t-SNE)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from ppssl.metrics.retrieval import unit_rows
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import COLUMNS, TILE, Pictures
from ppssl.reports.section import LeftOut, Section, per_run

__all__ = ["project", "section"]

MOST_IMAGES = 2000
"""Images in a map, evenly spaced; t-SNE takes seconds for so many, and the sheet of pictures about 3 MB."""
STEPS = 500
"""Steps of t-SNE, half of them with early exaggeration."""
DIMENSIONS = 50
"""Principal components that t-SNE works on (van der Maaten and Hinton 2008, section 4.2)."""
FEWEST_IMAGES = 10
WIDTH, MARGIN = 1000, 20


def section(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section."""
    return per_run(
        "embedding_map", "Map of the embedding", runs, lambda m: _content(m, pictures[m.run.name])
    )


def _content(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    images = measured.images
    if len(images.index) < FEWEST_IMAGES:
        raise LeftOut(f"A map needs {FEWEST_IMAGES} images, and there are {len(images.index)}.")
    rows = np.linspace(0, len(images.index) - 1, min(MOST_IMAGES, len(images.index)))
    rows = np.unique(rows.round().astype(int))
    index, labels = images.index[rows], images.labels[rows].numpy()
    places = project(images.features[torch.from_numpy(rows)])
    present = [k for k in range(len(measured.data.classes)) if (labels == k).any()]
    rank = {k: place for place, k in enumerate(present)}
    points = [
        {"x": x, "y": y, "group": rank.get(int(label), -1)}
        for (x, y), label in zip(places.tolist(), labels, strict=True)
    ]
    splits = [measured.data.locate(i)[0] for i in index.tolist()]
    return {
        "points": points,
        "names": [
            f"{measured.class_name(int(k))} ({split})"
            for k, split in zip(labels, splits, strict=True)
        ],
        "classes": [measured.data.classes[k] for k in present],
        "hues": [_hue(place, len(present)) for place in range(len(present))],
        "sheet": pictures.sheet(index),
        "columns": COLUMNS,
        "tile": TILE,
        "shown": len(rows),
        "total": measured.total,
        "width": WIDTH,
    }


def project(features: Tensor) -> np.ndarray:
    """Places of images on the map by t-SNE of their normalised embeddings, always the same for the same embeddings.

    Args:
        features: ``(N, D)`` floating point, N >= :data:`FEWEST_IMAGES`.

    Returns:
        ``(N, 2)``, x and y in units of the map; all in one place if all embeddings are equal.
    """
    x = unit_rows(features).cpu().numpy()
    x = x - x.mean(axis=0)
    if np.abs(x).max() < 1e-9:
        return np.full((len(x), 2), WIDTH / 2)
    x = PCA(min(DIMENSIONS, *x.shape), random_state=0).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    start = "pca" if x.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=perplexity, init=start, max_iter=STEPS, random_state=0)
    places = tsne.fit_transform(x)
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = (places - low) / np.maximum(high - low, 1e-9)
    return (MARGIN + scaled * (WIDTH - 2 * MARGIN)).round(1)


def _hue(place: int, count: int) -> int:
    """Hue of a class in degrees: evenly spread, neighbouring classes far from each other."""
    return round(360 * (place * 0.618034 % 1 if count > 8 else place / count))
