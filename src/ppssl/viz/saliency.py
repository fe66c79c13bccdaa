"""Images beside maps of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["saliency_panel"]


def saliency_panel(images: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """A row for each image: the image, then each map over it, from 0 to its own maximum; one colour bar.

    Args:
        images: ``(n, 3, H, W)`` uint8.
        maps: By title, ``(n, h, w)`` >= 0 of any resolution; shown as they are, each cell a square.
    """
    rows, columns = len(images), 1 + len(maps)
    figure = Figure(figsize=(1.9 * columns + 0.8, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    height, width = images.shape[-2:]
    for row, image in enumerate(images):
        picture = image.permute(1, 2, 0).cpu().numpy()
        grey = image.float().mean(dim=0).cpu().numpy()
        axes[row, 0].imshow(picture)
        for axis, values in zip(axes[row, 1:], maps.values(), strict=True):
            top = values[row].max().clamp(min=1e-12)
            shown = F.interpolate((values[row] / top)[None, None].float().cpu(), (height, width))
            axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
            drawn = axis.imshow(shown[0, 0].numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=1)
    for axis, title in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    if maps:
        figure.colorbar(drawn, ax=axes, shrink=0.6, label="share of the map's maximum")
    return figure
