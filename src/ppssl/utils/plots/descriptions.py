"""Figure of images with the descriptions that teacher and student rank highest for each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["Ranked", "description_panel"]

Ranked = Sequence[tuple[str, float]]
"""Descriptions with their probabilities, in descending order of probability."""

_COLUMNS = 2
_NAME_LENGTH = 28
"""Longest name in characters."""
_LINE_HEIGHT = 0.17
"""Height of a line of text in inches."""


def description_panel(
    images: Sequence[Tensor] | Tensor,
    rankings: Mapping[str, Sequence[Ranked]],
    names: Sequence[str] = (),
) -> Figure:
    """Draw images in two columns, each with its descriptions by every model.

    Args:
        images: ``(3, H, W)`` uint8 each, of any size.
        rankings: By model (such as ``"teacher"``), the highest ranked descriptions of each image.
        names: A title for each image; empty for no titles.
    """
    texts = [
        "\n\n".join(f"{model}\n{_format(ranked[i])}" for model, ranked in rankings.items())
        for i in range(len(images))
    ]
    rows = -(-len(images) // _COLUMNS)
    height = max(2.1, 0.3 + _LINE_HEIGHT * max(text.count("\n") + 1 for text in texts))
    figure = Figure(figsize=(13, height * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * _COLUMNS, squeeze=False, width_ratios=[1, 2.6] * _COLUMNS)
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        row, column = divmod(i, _COLUMNS)
        picture, text = axes[row, 2 * column], axes[row, 2 * column + 1]
        picture.imshow(image.permute(1, 2, 0).cpu().numpy())
        if names:
            name = names[i]
            if len(name) > _NAME_LENGTH:
                name = f"...{name[3 - _NAME_LENGTH :]}"
            picture.set_title(name, fontsize=8, parse_math=False)
        text.text(0, 1, texts[i], va="top", fontsize=8, linespacing=1.3, parse_math=False)
    return figure


def _format(ranked: Ranked) -> str:
    return "\n".join(
        f"{probability:6.1%}  {textwrap.shorten(text, 75, placeholder=' ...')}"
        for text, probability in ranked
    )
