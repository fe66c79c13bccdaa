"""Saliency by loops in float64, from docs/method.md, "IADM", and F8."""

from collections.abc import Callable

import torch
from torch import Tensor


def finite_difference_gradcam(
    objective: Callable[[Tensor], Tensor], images: Tensor, step: float = 1e-4
) -> Tensor:
    """``sum_c x_c * d ell / dx_c`` at each pixel, by central differences of ell, ``(B, H, W)``."""
    batch, channels, height, width = images.shape
    out = torch.zeros(batch, height, width, dtype=torch.float64)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                nudge = torch.zeros_like(images)
                nudge[:, c, i, j] = step
                slope = (objective(images + nudge) - objective(images - nudge)) / (2 * step)
                out[:, i, j] += images[:, c, i, j] * slope
    return out


def grid_distribution(
    attribution: Tensor, rows: int, columns: int, order: str, gamma: float
) -> Tensor:
    """A* for sizes that divide evenly, cell by cell."""
    batch, height, width = attribution.shape
    out = torch.zeros(batch, rows, columns, dtype=torch.float64)
    h, w = height // rows, width // columns
    for b in range(batch):
        for r in range(rows):
            for c in range(columns):
                values = attribution[b, r * h : (r + 1) * h, c * w : (c + 1) * w].flatten().tolist()
                if order == "relu_pool":
                    values = [max(v, 0.0) for v in values]
                out[b, r, c] = max(sum(values) / len(values), 0.0) ** gamma
        total = float(out[b].sum())
        out[b] = out[b] / total if total > 0 else 1 / (rows * columns)
    return out
