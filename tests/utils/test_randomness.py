"""Counter-based randomness: equal arguments, equal numbers; any other argument, other numbers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppssl.utils.randomness import generator, resolve_seed, seed_step, torch_seed

INTEGERS = st.integers(min_value=-(2**63), max_value=2**64 - 1)


def _draw(*args):
    return tuple(generator(*args).random(4))


@settings(max_examples=50, deadline=None)
@given(seed=INTEGERS, purpose=st.text(), counters=st.lists(INTEGERS, max_size=3))
def test_equal_arguments_give_equal_numbers(seed, purpose, counters):
    assert _draw(seed, purpose, *counters) == _draw(seed, purpose, *counters)
    assert torch_seed(seed, purpose, *counters) == torch_seed(seed, purpose, *counters)


def test_every_argument_changes_the_numbers():
    places = [
        (seed, purpose, *counters)
        for seed, purpose in itertools.product((0, 1, -1, 2**40), ("order", "view"))
        for counters in itertools.product((-1, 0, 1, 2**33), repeat=3)
    ]
    first = [_draw(*place)[0] for place in places]
    assert len(set(first)) == len(places)


def test_neighbouring_places_do_not_run_into_each_other():
    """One place's stream must not be the next one's, shifted by a block."""
    places = [counters for i in range(-5, 6) for counters in ((i, 9, 9), (9, i, 9), (9, 9, i))]
    draws = np.concatenate([generator(0, "view", *counters).random(200) for counters in places])
    assert len(np.unique(draws)) == len(draws)


def test_what_was_drawn_before_does_not_matter():
    expected = _draw(3, "view", 7)
    generator(3, "view", 7).random(1000)
    np.random.default_rng().random(10)
    assert _draw(3, "view", 7) == expected


def test_numbers_are_uniform_over_places():
    """One draw at each of many places: as good as many draws at one."""
    draws = np.array([generator(0, "view", 5, i, 1).random() for i in range(4000)])
    assert draws.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * 4000))
    assert np.corrcoef(draws[:-1], draws[1:])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(4000))
    assert np.histogram(draws, bins=10, range=(0, 1))[0] == pytest.approx(400, abs=4 * np.sqrt(400))


def test_seeds_and_counters_may_come_from_numpy():
    assert _draw(np.int64(-1), "order", np.int64(-1)) == _draw(-1, "order", -1)
    assert type(resolve_seed(np.int64(3))) is int  # results are written as JSON


def test_more_than_three_counters_are_refused():
    with pytest.raises(ValueError, match=r"`counters` must be at most three integers, got 4"):
        generator(0, "view", 1, 2, 3, 4)


@settings(max_examples=100, deadline=None)
@given(seed=INTEGERS, counter=INTEGERS)
def test_torch_seed_is_one_that_torch_takes(seed, counter):
    value = torch_seed(seed, "step", counter)
    assert 0 <= value < 2**63
    torch.Generator().manual_seed(value)


def test_torch_seeds_use_the_whole_range():
    seeds = [torch_seed(0, "step", i) for i in range(200)]
    assert len(set(seeds)) == 200
    assert max(seeds) > 2**62
    assert min(seeds) < 2**62


def test_seed_step_replays_dropout():
    dropout, ones = torch.nn.Dropout(0.5), torch.ones(200)

    def masks(*place):
        seed_step(*place)
        return dropout(ones), dropout(ones)

    first, second = masks(0, 10, 3, 1)
    torch.rand(7)  # whatever happens in between
    again = masks(0, 10, 3, 1)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)
    for other in ((1, 10, 3, 1), (0, 11, 3, 1), (0, 10, 4, 1), (0, 10, 3, 0)):
        assert not torch.equal(first, masks(*other)[0])


def test_resolve_seed_prefers_the_given_one(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert resolve_seed(3) == 3
    assert resolve_seed(0) == 0  # zero is a seed, not the lack of one


def test_resolve_seed_falls_back_on_lightnings_then_on_zero(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert resolve_seed(None) == 7
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert resolve_seed(None) == 0
