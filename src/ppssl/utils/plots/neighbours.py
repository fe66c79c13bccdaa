"""Figure of a query image and its nearest neighbours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["neighbour_panel"]

_COLUMNS = 5
_LINE = 24
"""Characters per line; a long title takes two lines, broken at spaces, hyphens and underscores."""


def neighbour_panel(images: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Draw a grid, row by row: the query in a red frame, then its neighbours, nearest first.

    Args:
        images: ``(3, H, W)`` uint8 each, of any size; the first is the query.
        titles: Title of each image, of one or two lines.
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
        lines = []
        for line in title.split("\n"):
            text = line.replace("_", " ")
            lines += textwrap.wrap(text, _LINE, max_lines=2, placeholder=" ...")
        axis.set_title("\n".join(lines), fontsize=8, parse_math=False)
        for side in axis.spines.values():
            side.set_visible(place == 0)
            side.set_linewidth(3)
            side.set_color("tab:red")
    return figure
