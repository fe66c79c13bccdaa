"""Images beside what is said of them: by teacher and student, or by the teacher alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["Ranked", "description_panel"]

Ranked = Sequence[tuple[str, float]]
"""Descriptions with their probabilities, best first."""

_COLUMNS = 2
_NAME = 28
_LINE = 0.17
"""The longest name in characters, and the height of a line of text in inches."""


def description_panel(
    images: Sequence[Tensor] | Tensor,
    said: Mapping[str, Sequence[Ranked]],
    names: Sequence[str] = (),
) -> Figure:
    """Images in two columns, each with the descriptions of everyone who was asked.

    Args:
        images: ``(3, H, W)`` uint8 each, of any size.
        said: By who says it, for each image the best descriptions.
        names: A title for each image, or none at all.
    """
    texts = [
        "\n\n".join(f"{who}\n{_lines(rankings[i])}" for who, rankings in said.items())
        for i in range(len(images))
    ]
    rows = -(-len(images) // _COLUMNS)
    height = max(2.1, 0.3 + _LINE * max(text.count("\n") + 1 for text in texts))
    figure = Figure(figsize=(13, height * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * _COLUMNS, squeeze=False, width_ratios=[1, 2.6] * _COLUMNS)
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        row, column = divmod(i, _COLUMNS)
        picture, text = axes[row, 2 * column], axes[row, 2 * column + 1]
        picture.imshow(image.permute(1, 2, 0).cpu().numpy())
        if names:
            name = names[i] if len(names[i]) <= _NAME else f"...{names[i][3 - _NAME :]}"
            picture.set_title(name, fontsize=8, parse_math=False)
        text.text(0, 1, texts[i], va="top", fontsize=8, linespacing=1.3, parse_math=False)
    return figure


def _lines(ranked: Ranked) -> str:
    return "\n".join(
        f"{probability:6.1%}  {textwrap.shorten(text, 75, placeholder=' ...')}"
        for text, probability in ranked
    )
