"""Which labels may be used and which are held out: stratified, seeded, nested, apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppssl.data.label_splits import select_held_out, select_labelled

LABELS = st.lists(st.integers(-1, 5), max_size=120).map(
    lambda items: np.array(items, dtype=np.int64)
)
FRACTION = st.floats(0.01, 1.0)


def _counts(labels, chosen):
    return np.bincount(labels[chosen], minlength=6)


@settings(max_examples=150, deadline=None)
@given(labels=LABELS, fraction=FRACTION, seed=st.integers(0, 2**32))
def test_the_labelled_part_is_stratified(labels, fraction, seed):
    chosen = select_labelled(labels, fraction, seed)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert (labels[chosen] >= 0).all()
    there, taken = _counts(labels, labels >= 0), _counts(labels, chosen)
    assert (taken[there > 0] >= 1).all()
    assert (np.abs(taken - np.maximum(fraction * there, there > 0)) <= 0.5 + 1e-9).all()


@settings(max_examples=100, deadline=None)
@given(labels=LABELS, small=FRACTION, large=FRACTION, seed=st.integers(0, 2**32))
def test_a_smaller_part_lies_within_a_larger_one(labels, small, large, seed):
    small, large = sorted((small, large))
    assert set(select_labelled(labels, small, seed)) <= set(select_labelled(labels, large, seed))


def test_the_usual_fractions_nest_and_count():
    labels = np.repeat(np.arange(4), 20)
    parts = [select_labelled(labels, fraction, 0) for fraction in (0.2, 0.5, 1.0)]
    assert [len(part) for part in parts] == [16, 40, 80]
    assert set(parts[0]) < set(parts[1]) < set(parts[2])
    assert all((_counts(labels, part)[:4] == len(part) // 4).all() for part in parts)


@pytest.mark.parametrize(
    "choose",
    [
        lambda y, s: select_labelled(y, 0.3, s),
        lambda y, s: select_held_out(y, np.arange(60), 0.3, s),
    ],
)
def test_the_choice_is_the_seeds(choose):
    labels = np.repeat(np.arange(3), 20)
    np.testing.assert_array_equal(choose(labels, 5), choose(labels, 5))
    assert len({tuple(choose(labels, seed)) for seed in range(20)}) == 20
    seen = np.bincount(np.concatenate([choose(labels, seed) for seed in range(100)]), minlength=60)
    assert seen.min() > 10  # any image may be chosen, not the first of each class
    assert seen.max() < 55


@settings(max_examples=150, deadline=None)
@given(labels=LABELS, part=FRACTION, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_what_is_held_out_leaves_some_of_each_class(labels, part, fraction, seed):
    among = select_labelled(labels, part, seed)
    chosen = select_held_out(labels, among, fraction, seed)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert set(chosen) <= set(among)
    there, taken = _counts(labels, among), _counts(labels, chosen)
    assert (taken[there > 1] >= 1).all()
    assert (taken[there <= 1] == 0).all()
    assert (taken[there > 0] < there[there > 0]).all()
    wanted = np.clip(fraction * there, 1, np.maximum(there - 1, 1)) * (there > 1)
    assert (np.abs(taken - wanted) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("fraction", [0.75, 0.9, 0.99])
def test_a_large_fraction_does_not_empty_small_classes(fraction):
    labels = np.repeat(np.arange(3), 2)
    assert _counts(labels, select_held_out(labels, np.arange(6), fraction, 0))[:3].tolist() == [
        1,
        1,
        1,
    ]


def test_holding_out_nothing_or_from_nothing():
    labels = np.zeros(5, dtype=np.int64)
    for chosen in (
        select_held_out(labels, np.arange(5), 0.0, 0),
        select_held_out(labels, np.empty(0, dtype=np.int64), 0.5, 0),
        select_labelled(np.full(5, -1), 1.0, 0),
    ):
        assert chosen.dtype == np.int64
        assert len(chosen) == 0


def test_the_labelled_and_the_held_out_are_not_the_same_order():
    """Held out of a labelled part must not mean its first images: the two draws are independent."""
    labels = np.zeros(1000, dtype=np.int64)
    a, b = select_labelled(labels, 0.5, 0), select_held_out(labels, np.arange(1000), 0.5, 0)
    assert len(set(a) & set(b)) == pytest.approx(250, abs=60)
