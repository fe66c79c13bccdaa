"""Intervals of means over images: SciPy's, with images that do not count left out."""

import numpy as np
import pytest
from scipy import stats

from ppssl.evaluation.bootstrap import RESAMPLES, image_intervals, resamples


def _scipy(values: np.ndarray) -> tuple[float, float]:
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    return tuple(found.confidence_interval)


@pytest.mark.parametrize("count", [30, 400])
def test_the_interval_is_scipys_percentile_bootstrap(count: int) -> None:
    rng = np.random.default_rng(count)
    values = {"hits": rng.random(count) < 0.8, "precision": rng.beta(0.5, 2, count)}
    found = image_intervals(values)
    for name, row in values.items():
        low, high = _scipy(row.astype(float))
        step = 1.001 / count if name == "hits" else 0  # quantiles of hits lie on multiples of it
        assert found[name] == pytest.approx((low, high), abs=0.08 * (high - low) + step)


def test_images_that_do_not_count_are_left_out() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(500)
    values[::3] = np.nan
    low, high = _scipy(values[~np.isnan(values)])
    found = image_intervals({"a": values, "b": np.ones(500)})
    assert found["a"] == pytest.approx((low, high), abs=0.08 * (high - low))
    assert found["b"] == (1, 1)


def test_where_hardly_an_image_counts() -> None:
    """Some resamples hold none of the one image that counts; none at all has no interval."""
    one = np.array([np.nan, 0.25, np.nan])
    found = image_intervals({"one": one, "none": np.full(3, np.nan)})
    assert found["one"] == (0.25, 0.25)
    assert np.isnan(found["none"]).all()


def test_all_metrics_see_the_same_resamples_each_time() -> None:
    hits = np.random.default_rng(0).random(50) < 0.5
    both = image_intervals({"a": hits, "b": ~hits})
    assert both["a"] == pytest.approx(tuple(1 - x for x in both["b"][::-1]))
    assert image_intervals({"a": hits}) == {"a": both["a"]}


def test_seeds_and_images_are_drawn_with_replacement() -> None:
    draws = list(resamples(3, 7))
    assert len(draws) == RESAMPLES
    assert all(len(seeds) == 3 and images.sum() == 7 for seeds, images in draws)
    assert np.mean([seeds for seeds, _ in draws], axis=0) == pytest.approx(np.ones(3), abs=0.1)
    assert np.mean([images for _, images in draws], axis=0) == pytest.approx(np.ones(7), abs=0.1)
