"""Retrieval by slow loops over single pairs of images, from the definitions in `ppssl.metrics.retrieval`."""

import math

import numpy as np

__all__ = ["retrieval_loops"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two vectors; 0 if one is zero. Rounded, so that rounding errors break no tie."""
    length = math.sqrt(sum(float(v) ** 2 for v in a) * sum(float(v) ** 2 for v in b))
    return (
        round(sum(float(v) * float(w) for v, w in zip(a, b, strict=True)) / length, 9)
        if length
        else 0.0
    )


def retrieval_loops(
    embeddings: np.ndarray, labels: np.ndarray
) -> tuple[list[float], list[int], dict[str, float]]:
    """AP (NaN if none) and first relevant rank (0 if none) of every image, and their means."""
    precisions, ranks = [], []
    for q in range(len(labels)):
        ap, rank = _one_query(q, embeddings, labels)
        precisions.append(ap)
        ranks.append(rank)
    valid = [q for q, rank in enumerate(ranks) if rank > 0]
    count = len(valid) or math.nan
    means = {f"rank-{k}": sum(ranks[q] <= k for q in valid) / count for k in (1, 5)}
    means["mAP"] = sum(precisions[q] for q in valid) / count
    return precisions, ranks, means


def _one_query(q: int, embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    others = [i for i in range(len(labels)) if i != q and labels[i] >= 0 and labels[q] >= 0]
    scores = {i: cosine(embeddings[q], embeddings[i]) for i in others}
    relevant = [i for i in others if labels[i] == labels[q]]
    if not relevant:
        return math.nan, 0
    total = 0.0
    for i in relevant:
        total += sum(scores[j] >= scores[i] for j in relevant) / sum(
            scores[j] >= scores[i] for j in others
        )
    nearest = max(scores[i] for i in relevant)
    ahead = sum(scores[j] >= nearest for j in others if labels[j] != labels[q])
    return total / len(relevant), ahead + 1
