"""Geometry of the charts."""

import numpy as np
import pytest

from ppssl.reports.charts import HEIGHT, LEFT, MOST_POINTS, WIDTH, line_chart


def _points(text: str) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in text.split()])


def test_points_lie_where_the_ticks_say() -> None:
    x, y = np.array([9, 19, 29]), np.array([2.0, -1.0, 0.5])
    chart = line_chart("loss", {"train/loss": (x, y)})
    assert chart is not None
    (line,) = chart.lines
    for axis, ticks, values in ((0, chart.x_ticks, x), (1, chart.y_ticks, y)):
        places, labels = zip(*ticks, strict=True)
        numbers = [float(label.replace(",", "")) for label in labels]
        assert min(numbers) <= values.min() <= values.max() <= max(numbers)
        order = np.argsort(numbers)
        expected = np.interp(values, np.array(numbers)[order], np.array(places)[order])
        assert _points(line.points)[:, axis] == pytest.approx(expected, abs=0.06)
    assert (line.first, line.last, line.low, line.high) == (2.0, 0.5, -1.0, 2.0)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-7, 1e9])
def test_a_single_value_lies_inside(value: float) -> None:
    chart = line_chart("loss", {"a": (np.array([5]), np.array([value]))})
    assert chart is not None
    ((x, y),) = _points(chart.lines[0].points)
    assert LEFT <= x <= WIDTH
    assert 0 < y < HEIGHT


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_a_value_that_never_changes_has_short_labels(value: float) -> None:
    chart = line_chart("loss", {"a": (np.arange(3), np.full(3, value))})
    assert chart is not None
    labels = [label for _, label in chart.y_ticks]
    assert max(map(len, labels)) <= 5
    assert len(set(labels)) == len(labels) > 2


def test_values_that_are_not_finite_are_left_out() -> None:
    steps = np.arange(4)
    series = {"a": (steps, np.array([1, np.nan, np.inf, 2])), "b": (steps, np.full(4, np.nan))}
    chart = line_chart("loss", series)
    assert chart is not None
    assert [line.name for line in chart.lines] == ["a"]
    assert len(_points(chart.lines[0].points)) == 2
    assert line_chart("loss", {"b": series["b"]}) is None


def test_a_long_line_is_thinned_to_means() -> None:
    steps = np.arange(10 * MOST_POINTS)
    chart = line_chart("loss", {"a": (steps, (steps % 10).astype(float))})
    assert chart is not None
    points = _points(chart.lines[0].points)
    assert len(points) == MOST_POINTS
    assert np.ptp(points[:, 1]) == 0
    assert chart.lines[0].high == 9
