"""Contrastive losses by loops in float64, from the equations of the papers.

- InfoNCE: He et al., arXiv 1911.05722, eq. 1.
- NT-Xent: Chen et al., arXiv 2002.05709, eq. 1.
- MoCo v3: Chen, Xie and He, arXiv 2104.02057, algorithm 1.
- BYOL: Grill et al., arXiv 2006.07733, eq. 2 and the symmetric loss below it.
- Multi-crop: Caron et al., arXiv 2006.09882, section 3.3, and arXiv 2104.14294, eq. 3.
"""

import math

import torch
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


def nt_xent_loops(first: Tensor, second: Tensor, index: list[int], temperature: float) -> Tensor:
    """SimCLR's loss of each image ``(N,)`` float64 with its graph; projections ``(N, d)`` of any length."""
    views, losses = (first.double(), second.double()), []
    for i in range(len(first)):
        both: list[Tensor] = []
        for query, key in ((views[0][i], views[1][i]), (views[1][i], views[0][i])):
            positive = torch.exp(_cosine(query, key) / temperature)
            total = positive
            for j in range(len(first)):
                for view in views:
                    if index[j] != index[i]:
                        total = total + torch.exp(_cosine(query, view[j]) / temperature)
            both.append(-torch.log(positive / total))
        losses.append((both[0] + both[1]) / 2)
    return torch.stack(losses)


def moco_v3_loops(
    queries: tuple[Tensor, Tensor],
    keys: tuple[Tensor, Tensor],
    index: list[int],
    temperature: float,
) -> Tensor:
    """MoCo v3's loss of each image ``(N,)`` float64; predictions and keys of view 0 and view 1, ``(N, d)``."""
    losses = []
    for i in range(len(index)):
        loss = torch.zeros((), dtype=torch.float64)
        for view in (0, 1):
            query, others = queries[view].double()[i], keys[1 - view].double().detach()
            positive = torch.exp(_cosine(query, others[i]) / temperature)
            total = positive
            for j in range(len(index)):
                if index[j] != index[i]:
                    total = total + torch.exp(_cosine(query, others[j]) / temperature)
            loss = loss - 2 * temperature * torch.log(positive / total)
        losses.append(loss)
    return torch.stack(losses)


def byol_loops(predictions: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """BYOL's loss of each image ``(N,)`` float64: squared distances of unit vectors, both directions."""
    losses = []
    for i in range(len(predictions[0])):
        loss = torch.zeros((), dtype=torch.float64)
        for view in (0, 1):
            q = predictions[view][i].double()
            z = targets[1 - view][i].double().detach()
            for a, b in zip(q / q.norm(), z / z.norm(), strict=True):
                loss = loss + (a - b) ** 2
        losses.append(loss)
    return torch.stack(losses)


def multi_crop_loops(
    base: str,
    queries: list[Tensor],
    targets: dict[int, Tensor],
    index: list[int],
    temperature: float = 1.0,
    queue: tuple[Tensor, list[int]] | None = None,
) -> Tensor:
    """Loss of each image ``(N,)`` float64 of V views: the mean over pairs of a query and another view's target.

    Args:
        base: Name of the objective.
        queries: What each view gives as a query, ``(N, d)``.
        targets: What global views give as targets, by number of the view.
        index: Numbers of the images.
        temperature: Temperature of InfoNCE.
        queue: Keys of the queue and the images that they are of.
    """
    losses = []
    for i in range(len(index)):
        pairs = []
        for v, of_view in enumerate(queries):
            for t, of_target in targets.items():
                if t == v:
                    continue
                learns = base == "SimCLR" and v < 2  # else targets and negatives have no gradient
                positive = of_target[i] if learns else of_target[i].detach()
                if base == "BYOL":
                    a, b = of_view[i].double(), positive.double()
                    pairs.append(((a / a.norm() - b / b.norm()) ** 2).sum())
                    continue
                if queue is not None:
                    others = [k for k, j in zip(*queue, strict=True) if j != index[i]]
                else:
                    views = list(targets.values()) if base == "SimCLR" else [of_target]
                    others = [
                        view[j] if learns else view[j].detach()
                        for view in views
                        for j in range(len(index))
                        if index[j] != index[i]
                    ]
                ratios = [
                    torch.exp(_cosine(of_view[i].double(), other.double()) / temperature)
                    for other in [positive, *others]
                ]
                pairs.append(-torch.log(ratios[0] / torch.stack(ratios).sum()))
        scale = {"MoCo": 1.0, "SimCLR": 1.0, "BYOL": 2.0, "MoCoV3": 4 * temperature}[base]
        losses.append(scale * torch.stack(pairs).mean())
    return torch.stack(losses)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())
