"""Figure of the most confused pairs of classes, with an example image of each class."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["ConfusedPair", "confusion_panel"]

_LINE = 26
"""Characters per line of a class name."""


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that a classifier confuses.

    Attributes:
        names: Names of the two classes.
        counts: ``(2, 2)`` integers, confusion matrix of the pair: true class (row), predicted class (column).
        totals: Number of images of each class, whatever was predicted for them.
        images: An example of each class, ``(3, H, W)`` uint8; if possible one that was predicted as the other class.
        mistaken: Whether each example was predicted as the other class.
    """

    names: tuple[str, str]
    counts: Tensor
    totals: tuple[int, int]
    images: tuple[Tensor, Tensor]
    mistaken: tuple[bool, bool]


def confusion_panel(pairs: Sequence[ConfusedPair], title: str = "") -> Figure:
    """Draw one row per pair: an example of the first class, the confusion matrix, an example of the second class."""
    rows = max(1, len(pairs))
    figure = Figure(figsize=(7.5, 2.35 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=[1, 1.3, 1])
    if not pairs:
        for axis in axes.flat:
            axis.axis("off")
        axes[0, 1].text(0.5, 0.5, "no confused classes", ha="center")
    for (left, middle, right), pair in zip(axes, pairs, strict=False):
        for side, axis in enumerate((left, right)):
            axis.imshow(pair.images[side].permute(1, 2, 0).cpu().numpy())
            axis.set_xticks([])
            axis.set_yticks([])
            label = "predicted as the other" if pair.mistaken[side] else "example"
            axis.set_title(_wrap_name(pair.names[side]), fontsize=8, parse_math=False)
            axis.set_xlabel(label, fontsize=8)
        _draw_counts(middle, pair)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _draw_counts(axis: Axes, pair: ConfusedPair) -> None:
    """Draw the confusion matrix: fractions of each class as colours, counts as text."""
    counts = pair.counts.cpu()
    totals = counts.new_tensor(pair.totals).clamp(min=1)
    shares = (counts / totals[:, None]).numpy()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in (0, 1):
        for column in (0, 1):
            axis.text(
                column,
                row,
                f"{int(counts[row, column])} of {pair.totals[row]}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if shares[row, column] > 0.6 else "black",
            )
    axis.set_xticks([0, 1], ["left", "right"], fontsize=8)
    axis.set_yticks([0, 1], ["left", "right"], fontsize=8)
    axis.set_xlabel("predicted class", fontsize=8)
    axis.set_ylabel("true class", fontsize=8)


def _wrap_name(name: str) -> str:
    """Wrap a name to at most two lines and keep its end: names of similar classes often begin alike."""
    shown = name if len(name) <= 2 * _LINE else f"...{name[3 - 2 * _LINE :]}"
    return "\n".join(textwrap.wrap(shown, _LINE)[-2:])
