"""An image beside the ones that are nearest to it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["neighbour_panel"]

_COLUMNS = 5
_NAME = 24
"""Characters a line; a long name takes two, broken at its spaces, hyphens and underscores."""


def neighbour_panel(images: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """A grid, row by row: the query, framed, then its neighbours, nearest first.

    Args:
        images: ``(3, H, W)`` uint8 each, of any size.
        titles: Of each, of one or two lines.
    """
    rows = -(-len(images) // _COLUMNS)
    columns = min(_COLUMNS, len(images))
    figure = Figure(figsize=(2.0 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(images) :]:
        axis.axis("off")
    for place, (axis, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        axis.imshow(image.permute(1, 2, 0).cpu().numpy())
        axis.set_xticks([])
        axis.set_yticks([])
        lines = [
            part
            for line in title.split("\n")
            for part in textwrap.wrap(
                line.replace("_", " "), _NAME, max_lines=2, placeholder=" ..."
            )
        ]
        axis.set_title("\n".join(lines), fontsize=8, parse_math=False)
        for side in axis.spines.values():
            side.set_visible(place == 0)
            side.set_linewidth(3)
            side.set_color("tab:red")
    return figure
