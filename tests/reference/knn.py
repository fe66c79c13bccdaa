"""Nearest-neighbour votes by slow loops, from the definitions in `ppssl.metrics.knn`."""

import math

import numpy as np

from reference.retrieval import cosine

__all__ = ["knn_loops"]


def knn_loops(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    queries: np.ndarray,
    *,
    k: int,
    temperature: float | None,
) -> list[int]:
    """The predicted label of each query; ``temperature=None`` gives every neighbour one vote."""
    predictions = []
    for query in queries:
        near = sorted(
            (-cosine(query, image), int(label))
            for image, label in zip(gallery, gallery_labels, strict=True)
            if label >= 0
        )[:k]
        votes: dict[int, float] = {}
        for distance, label in near:
            weight = 1.0 if temperature is None else math.exp((-distance - 1) / temperature)
            votes[label] = votes.get(label, 0.0) + weight
        top = max(votes.values())
        predictions.append(min(c for c, vote in votes.items() if vote >= top * (1 - 1e-9)))
    return predictions
