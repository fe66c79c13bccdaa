"""Quality of saliency maps: sharpness, learnability, and energy on the object (:ref:`D14 <d14>`)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["saliency_health"]


def saliency_health(
    target: Tensor, branch: Tensor, mask: Tensor | None = None, parts: Tensor | None = None
) -> dict[str, float]:
    """Quality measures of saliency maps, averaged over images.

    Args:
        target: A*, ``(B, gh, gw)``, each sums to 1.
        branch: A, likewise.
        mask: ``(B, H, W)`` in [0, 1], where the object is; H and W are multiples of the grid's. Images whose mask is
            empty do not count. ``None``: not known.
        parts: Likewise, where any of its parts is.

    Returns:
        ``entropy`` of A* over the logarithm of the number of cells; ``kl_uniform`` in nats; ``skill``,
        ``1 - KL(A* || A) / KL(A* || uniform)``: 1 is perfect, 0 no better than the uniform map; ``correlation`` of A
        and A* over the cells. With a mask: ``energy``, the share of A* on the object, and ``branch_energy``, of A;
        ``energy_chance``, that of the uniform map; ``pointing``, how often A*'s highest cell is mostly object. With
        parts: ``part_energy``, ``branch_part_energy`` and ``part_energy_chance``, likewise.
    """
    most = math.log(target[0].numel())
    entropy = torch.special.entr(target).sum(dim=(1, 2))
    kl = F.kl_div(branch.clamp(min=1e-12).log(), target, reduction="none").sum(dim=(1, 2))
    pairs = torch.stack([target.flatten(1), branch.flatten(1)], dim=1)  # (B, 2, cells)
    centred = F.normalize(pairs - pairs.mean(dim=2, keepdim=True), dim=2)
    health = {
        "entropy": (entropy / most).mean(),
        "kl_uniform": (most - entropy).mean(),
        "skill": 1 - kl.mean() / (most - entropy).mean().clamp(min=1e-9),
        "correlation": centred.prod(dim=1).sum(dim=1).mean(),
    }
    if mask is not None:
        health |= _on(target, mask) | {"branch_energy": _on(branch, mask)["energy"]}
    if parts is not None:
        on_parts = _on(target, parts)
        health |= {f"part_{name}": on_parts[name] for name in ("energy", "energy_chance")}
        health |= {"branch_part_energy": _on(branch, parts)["energy"]}
    return {name: float(value) for name, value in health.items()}


def _on(target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Energy of maps on a mask, and how often their maximum is on it."""
    grid = (target.shape[1], target.shape[2])
    cells = F.adaptive_avg_pool2d(mask[:, None].float(), grid)[:, 0].flatten(1)
    known = cells.sum(dim=1) > 0
    cells, maps = cells[known], target.flatten(1)[known]
    highest = maps.argmax(dim=1, keepdim=True)
    return {
        "energy": (maps * cells).sum(dim=1).mean(),
        "energy_chance": cells.mean(),
        "pointing": (cells.gather(1, highest) > 0.5).float().mean(),
    }
