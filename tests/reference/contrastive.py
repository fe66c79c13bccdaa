"""InfoNCE by loops in float64, from He et al., arXiv 1911.05722, eq. 1."""

import math

from torch import Tensor


def info_nce_loops(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, mask: Tensor | None
) -> list[float]:
    """Loss of each query; entries with `mask` true do not count."""
    losses = []
    for b in range(len(query)):
        positive = math.exp(
            sum(float(q) * float(k) for q, k in zip(query[b], key[b], strict=True)) / temperature
        )
        total = positive
        for n in range(len(queue)):
            if mask is not None and bool(mask[b, n]):
                continue
            total += math.exp(
                sum(float(q) * float(k) for q, k in zip(query[b], queue[n], strict=True))
                / temperature
            )
        losses.append(-math.log(positive / total))
    return losses
