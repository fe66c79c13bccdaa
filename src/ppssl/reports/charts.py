"""Geometry of the charts of the page, which a template draws as SVG.

The page draws its own SVG instead of a library's: its colours are those of the page's style sheet (dark mode, print),
screen readers read it as text, it needs no script, and a chart has a few kilobytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator, ScalarFormatter

__all__ = ["Chart", "Line", "line_chart", "ticks"]

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 30
"""Size of a chart and of its margins, in units of the SVG."""
MOST_POINTS = 300
"""Points of a line; of more, means of neighbouring points are drawn."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: Its name in the legend.
        points: Its points in units of the SVG, ``"x,y x,y"``.
        first: Its first value.
        last: Its last value.
        low: Its smallest value.
        high: Its largest value.
    """

    name: str
    points: str
    first: float
    last: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """A chart of lines over the training step.

    Attributes:
        title: What is drawn.
        lines: The lines.
        x_ticks: Places and labels on the horizontal axis.
        y_ticks: Places and labels on the vertical axis.
    """

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Chart | None:
    """Lay out a chart.

    Args:
        title: What is drawn.
        series: By name, steps ``(N,)`` in ascending order and values ``(N,)``; values that are not finite are left out.

    Returns:
        The chart; ``None`` if there is no finite value.
    """
    finite = {name: _finite(*points) for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if len(points[0])}
    if not finite:
        return None
    x_ticks = ticks([x for x, _ in finite.values()], integer=True)
    y_ticks = ticks([y for _, y in finite.values()])
    x_place = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    y_place = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    lines = []
    for name, (x, y) in finite.items():
        thin_x, thin_y = _thin(x), _thin(y)
        places = zip(x_place(thin_x), y_place(thin_y), strict=True)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        lines.append(Line(name, points, *map(float, (y[0], y[-1], y.min(), y.max()))))
    return Chart(title, lines, _labelled(x_ticks, x_place), _labelled(y_ticks, y_place))


def ticks(values: Sequence[np.ndarray], *, integer: bool = False) -> np.ndarray:
    """Round numbers that enclose all values, in ascending order."""
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    if low == high:
        room = 1 if integer else abs(low) / 2 or 1
        low, high = low - room, high + room
    locator = MaxNLocator(5, integer=integer, steps=[1, 2, 2.5, 5, 10])
    return np.asarray(locator.tick_values(max(low, 0) if integer else low, high))


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.isfinite(y)
    return x[keep].astype(np.float64), y[keep].astype(np.float64)


def _thin(values: np.ndarray) -> np.ndarray:
    """At most :data:`MOST_POINTS` values, means of neighbours."""
    parts = np.array_split(values, min(len(values), MOST_POINTS))
    return np.array([part.mean() for part in parts])


class _scale:
    """Places of values between the first and the last tick."""

    def __init__(self, tick_values: np.ndarray, start: float, end: float) -> None:
        self.low, self.high = float(tick_values[0]), float(tick_values[-1])
        self.start, self.end = start, end

    def __call__(self, values: np.ndarray) -> np.ndarray:
        share = (values - self.low) / (self.high - self.low or 1)
        return self.start + share * (self.end - self.start)


def _labelled(values: np.ndarray, place: _scale) -> list[tuple[float, str]]:
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    formatter.create_dummy_axis()
    formatter.set_locs(list(values))
    labels = [_text(formatter(value)) for value in values]
    return list(zip(place(values).tolist(), labels, strict=True))


def _text(label: str) -> str:
    """A label with a hyphen for minus, and a thousand as ``1,000``."""
    text = label.replace("\N{MINUS SIGN}", "-")
    return f"{int(text):,}" if text.lstrip("-").isdecimal() else text
