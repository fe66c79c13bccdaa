"""Images beside what teacher and student say of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["Ranked", "description_panel"]

Ranked = Sequence[tuple[str, float]]
"""Descriptions with their probabilities, best first."""

_COLUMNS = 2


def description_panel(
    images: Tensor, teacher: Sequence[Ranked], student: Sequence[Ranked]
) -> Figure:
    """Images in two columns, each with the descriptions of the teacher and of the student.

    Args:
        images: ``(n, 3, H, W)`` uint8.
        teacher: For each image its best descriptions.
        student: Likewise.
    """
    rows = -(-len(images) // _COLUMNS)
    figure = Figure(figsize=(13, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * _COLUMNS, squeeze=False, width_ratios=[1, 2.6] * _COLUMNS)
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        row, column = divmod(i, _COLUMNS)
        picture, text = axes[row, 2 * column], axes[row, 2 * column + 1]
        picture.imshow(image.permute(1, 2, 0).cpu().numpy())
        said = f"teacher\n{_lines(teacher[i])}\n\nstudent\n{_lines(student[i])}"
        text.text(0, 1, said, va="top", fontsize=8, linespacing=1.3)
    return figure


def _lines(ranked: Ranked) -> str:
    return "\n".join(
        f"{probability:6.1%}  {textwrap.shorten(text, 60, placeholder=' ...')}"
        for text, probability in ranked
    )
