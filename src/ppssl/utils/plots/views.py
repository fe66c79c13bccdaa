"""Figures of augmented views: views beside each other, and histograms of their random parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["parameter_histograms", "view_panel"]

_COLUMNS = 4
"""Histograms per row."""


def view_panel(images: Sequence[Tensor], views: Mapping[str, Sequence[Sequence[Tensor]]]) -> Figure:
    """Draw one row per image: the image, then its views by each library.

    Args:
        images: ``(3, H, W)`` uint8 each.
        views: By the library's name, for each image its views, ``(3, H, W)`` uint8, of equal number.
    """
    counts = [len(of_images[0]) for of_images in views.values()]
    rows, columns = len(images), 1 + sum(counts)
    figure = Figure(figsize=(1.4 * columns, 1.45 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, image in enumerate(images):
        shown = [image, *(view for of_images in views.values() for view in of_images[row])]
        for axis, pixels in zip(axes[row], shown, strict=True):
            axis.imshow(pixels.permute(1, 2, 0).cpu().numpy())
    titles = ["image", *(name for name, n in zip(views, counts, strict=True) for _ in range(n))]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    return figure


def parameter_histograms(
    values: Mapping[str, Mapping[str, np.ndarray]], titles: Mapping[str, str]
) -> Figure:
    """Draw a histogram per parameter, the libraries over each other.

    Args:
        values: By the library's name, the drawn values by parameter, ``(n,)`` each.
        titles: Titles of the parameters by name.
    """
    rows = -(-len(titles) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.axis("off")
    for axis, (name, title) in zip(axes.flat, titles.items(), strict=False):
        together = np.concatenate([drawn[name] for drawn in values.values()])
        edges = np.histogram_bin_edges(together, bins=40) if len(together) else np.linspace(0, 1, 2)
        for library, drawn in values.items():
            axis.hist(drawn[name], edges, density=True, histtype="step", label=library)
        axis.set_title(title, fontsize=9)
        axis.set_yticks([])
    axes[0, 0].legend(fontsize=8)
    return figure
