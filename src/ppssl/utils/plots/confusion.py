"""What a classifier confuses: pairs of classes that are taken for each other, with images of both."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["ConfusedPair", "confusion_panel"]

_LINE = 26


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes.

    Attributes:
        names: Of both.
        counts: ``(2, 2)`` integers: images of the first or second class (row) taken for the first or second (column).
        totals: How many images each class has, whatever they were taken for.
        images: One of each, ``(3, H, W)`` uint8; best ones that were taken for the other.
        mistaken: Whether each image was taken for the other class.
    """

    names: tuple[str, str]
    counts: Tensor
    totals: tuple[int, int]
    images: tuple[Tensor, Tensor]
    mistaken: tuple[bool, bool]


def confusion_panel(pairs: Sequence[ConfusedPair], title: str = "") -> Figure:
    """A row for each pair: an image of the first class, counts of who was taken for whom, an image of the second."""
    rows = max(1, len(pairs))
    figure = Figure(figsize=(7.5, 2.35 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=[1, 1.3, 1])
    if not pairs:
        for axis in axes.flat:
            axis.axis("off")
        axes[0, 1].text(0.5, 0.5, "no class is taken for another", ha="center")
    for (left, middle, right), pair in zip(axes, pairs, strict=False):
        for side, axis in enumerate((left, right)):
            axis.imshow(pair.images[side].permute(1, 2, 0).cpu().numpy())
            axis.set_xticks([])
            axis.set_yticks([])
            what = "taken for the other" if pair.mistaken[side] else "an example"
            axis.set_title(_wrapped(pair.names[side]), fontsize=8, parse_math=False)
            axis.set_xlabel(what, fontsize=8)
        _counts(middle, pair)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _counts(axis: Axes, pair: ConfusedPair) -> None:
    """Shares of each class as shades, counts as text."""
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
    axis.set_xlabel("taken for", fontsize=8)
    axis.set_ylabel("is", fontsize=8)


def _wrapped(name: str) -> str:
    """Two lines at most, with the end of the name: names of look-alikes often begin alike."""
    shown = name if len(name) <= 2 * _LINE else f"...{name[3 - 2 * _LINE :]}"
    return "\n".join(textwrap.wrap(shown, _LINE)[-2:])
