import math

import pytest

from ppssl.utils.checks import check_choice, check_range

INSIDE_AND_OUTSIDE = {
    "> 0": ([1e-9, 7, math.inf], [0, -1, math.nan]),
    ">= 0": ([0, 7], [-1e-9, math.nan]),
    ">= 1": ([1, 7], [0, 0.99, -1, math.nan]),
    ">= 2": ([2, 7], [1, math.nan]),
    "in [0, 1]": ([0, 0.5, 1], [-1e-9, 1.001, math.nan]),
    "in [0, 1)": ([0, 0.5], [-1e-9, 1, math.nan]),
    "in (0, 1]": ([1e-9, 0.5, 1], [0, 1.001, math.nan]),
    "in (0, 1)": ([1e-9, 0.5], [0, 1, math.nan]),
}


@pytest.mark.parametrize("name", INSIDE_AND_OUTSIDE)
def test_ranges(name: str) -> None:
    inside, outside = INSIDE_AND_OUTSIDE[name]
    check_range(name, **{f"x{i}": x for i, x in enumerate(inside)}, absent=None)
    for x in outside:
        with pytest.raises(ValueError, match=r"^`bad` must be ") as error:
            check_range(name, good=inside[0], bad=x)
        assert str(error.value) == f"`bad` must be {name}, got {x}."


def test_choices() -> None:
    check_choice(("a", "b"), one="a", other="b")
    with pytest.raises(ValueError, match=r"^`other` must be one of a, b, got 'c'\.$"):
        check_choice(("a", "b"), one="a", other="c")
