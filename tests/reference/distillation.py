"""Distillation over a text bank by loops in float64, from docs/method.md, "AIS"."""

import math

from torch import Tensor


def text_bank_distillation_loops(
    student: Tensor,
    teacher: Tensor,
    texts: Tensor,
    tau_s: float,
    tau_t: float,
    hubs: list[float] | None = None,
    top_k: int | None = None,
) -> list[float]:
    """KL(P || Q) of each image; `teacher` is (B, k, e), and P the mean over its k views."""
    losses = []
    for s, views in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [0.0] * len(texts)
        for v in views:
            row = [_dot(v, t) - (hubs[j] if hubs else 0.0) for j, t in enumerate(texts.tolist())]
            kept = sorted(range(len(row)), key=lambda j: -row[j])[: top_k or len(row)]
            weights = {j: math.exp(row[j] / tau_t) for j in kept}
            for j in kept:
                p[j] += weights[j] / sum(weights.values()) / len(views)
        exps = [math.exp(_dot(s, t) / tau_s) for t in texts.tolist()]
        q = [e / sum(exps) for e in exps]
        losses.append(sum(pj * math.log(pj / qj) for pj, qj in zip(p, q, strict=True) if pj > 0))
    return losses


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
