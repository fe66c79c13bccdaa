"""Figures of saliency maps: maps over their images, what is made with them, and bar charts of map scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

__all__ = ["map_panel", "saliency_bars", "saliency_panel"]

_SMALLEST = 1e-12
"""Maximum below which a map is taken for 0."""


def saliency_panel(
    images: Tensor, maps: Mapping[str, Tensor], outlines: Tensor | None = None
) -> Figure:
    """Draw one row per image: the image, then each map over it, scaled from 0 to its maximum, with one colour bar.

    A map that is the same everywhere, as of an image of one colour, is not drawn: its panel says so.

    Args:
        images: ``(n, 3, H, W)`` uint8.
        maps: Maps by title, ``(n, h, w)`` >= 0 of any resolution; drawn without interpolation.
        outlines: Masks to outline in every panel, ``(n, H, W)``, 0 or 1.
    """
    rows, columns = len(images), 1 + len(maps)
    figure = Figure(figsize=(1.9 * columns + 0.8, 1.9 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, image in enumerate(images):
        picture = image.permute(1, 2, 0).cpu().numpy()
        grey = image.float().mean(dim=0).cpu().numpy()
        axes[row, 0].imshow(picture)
        for axis, values in zip(axes[row, 1:], maps.values(), strict=True):
            axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
            _draw_map(axis, values[row].float().cpu(), grey.shape)
        if outlines is not None and outlines[row].any():
            for axis in axes[row]:
                axis.contour(outlines[row].cpu().numpy(), levels=[0.5], colors="cyan", linewidths=1)
    for axis, title in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    if maps:
        shrink = 0.9 if rows == 1 else 0.6
        scale = ScalarMappable(Normalize(0, 1), "inferno")
        bar = figure.colorbar(scale, ax=axes, shrink=shrink, alpha=0.65)
        bar.set_label("fraction of the maximum", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    return figure


def _draw_map(axis: Axes, values: Tensor, size: tuple[int, ...]) -> None:
    """Draw a map ``(h, w)`` >= 0 from 0 to its maximum over an image of ``size``, or write that it is flat."""
    top, low = float(values.max()), float(values.min())
    if top < _SMALLEST or top - low <= 1e-6 * top:
        text = "0 everywhere" if top < _SMALLEST else "the same everywhere"
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, text, fontsize=8, bbox=box, **middle)
        return
    shown = F.interpolate((values / top)[None, None], size)
    axis.imshow(shown[0, 0].numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=1)


def map_panel(
    images: Tensor,
    maps: Tensor,
    seen: Tensor,
    titles: tuple[str, str, str],
    windows: Tensor | None = None,
) -> Figure:
    """Draw one row per image: the image, its map from 0 to its largest value, and what is made with the map.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        maps: Where they are salient, ``(n, h, w)`` >= 0.
        seen: ``(n, 3, H', W')`` in [0, 1].
        titles: Of the three columns.
        windows: Windows to frame in the image: left, top, width and height, as fractions of its sides, ``(n, 4)``.
    """
    figure = Figure(figsize=(6.2, 1.9 * len(images) + 0.3), layout="constrained")
    axes = figure.subplots(len(images), 3, squeeze=False)
    for i, row in enumerate(axes):
        row[0].imshow(images[i].permute(1, 2, 0).cpu().numpy())
        row[1].imshow(maps[i].float().cpu().numpy(), cmap="inferno", vmin=0)
        row[2].imshow(seen[i].permute(1, 2, 0).cpu().numpy())
        if windows is not None:
            left, top, width, height = windows[i].tolist()
            across, down = images.shape[-1], images.shape[-2]
            corner = (left * across - 0.5, top * down - 0.5)
            frame = Rectangle(corner, width * across, height * down, fill=False, edgecolor="cyan")
            row[0].add_patch(frame)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    return figure


def saliency_bars(
    groups: Mapping[str, Sequence[Mapping[str, Mapping[str, Sequence[float]]]]],
    names: Mapping[str, Sequence[str]],
    metrics: Mapping[str, str],
) -> Figure:
    """Draw bar charts of map scores before and after training: a row per group, a chart per metric, two bars per map.

    Args:
        groups: By title, for each map its ``before`` and ``after``: values of each metric, one per encoder. The mean is
            drawn, with the standard deviation as error bar if there are several values.
        names: By title, the name of each map.
        metrics: Metrics to draw, with their headings; ``lift_*`` and ``focus`` get a line at chance level, 1.
    """
    most = max(len(rows) for rows in names.values())
    size = (3.1 * len(metrics) + 1.2, (0.32 * most + 0.9) * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(groups), len(metrics), squeeze=False, sharex="col", sharey="row")
    for line, (title, rows) in zip(axes, groups.items(), strict=True):
        places = np.arange(len(rows))
        line[0].set_yticks(places, names[title], fontsize=9)
        line[0].invert_yaxis()
        line[0].set_ylabel(title)
        for axis, (metric, heading) in zip(line, metrics.items(), strict=True):
            for shift, phase, colour in ((-0.2, "before", "0.7"), (0.2, "after", "#7a1f5c")):
                values = [row[phase][metric] for row in rows]
                means = [float(np.mean(v)) for v in values]
                spread = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]
                bars = {"height": 0.38, "color": colour, "label": f"{phase} training"}
                axis.barh(places + shift, means, xerr=spread if any(spread) else None, **bars)
            if metric.startswith("lift") or metric == "focus":
                axis.axvline(1, color="black", linestyle="--", linewidth=1, label="chance")
            axis.set_title(heading, fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
