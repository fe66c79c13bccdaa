"""Checks of arguments: one line in an ``__init__``, the same error from Python and from the command line.

The restricted types of jsonargparse (``PositiveInt``) check on the command line alone.
"""

from collections.abc import Callable, Collection, Iterable

from ppssl.utils.errors import ArgumentError

__all__ = ["check_choice", "check_list", "check_pixels", "check_range"]

MOST_PIXELS = 16_384
"""Largest height and width of an image: one more digit than meant would fill the memory."""

_RANGES: dict[str, Callable[[float], bool]] = {
    "> 0": lambda x: x > 0,
    ">= 0": lambda x: x >= 0,
    ">= 1": lambda x: x >= 1,
    ">= 2": lambda x: x >= 2,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in [0, 1)": lambda x: 0 <= x < 1,
    "in (0, 1]": lambda x: 0 < x <= 1,
    "in (0, 1)": lambda x: 0 < x < 1,
    "in [8, 16]": lambda x: 8 <= x <= 16,
}


def check_range(range_: str, /, **values: float | None) -> None:
    """Check that numbers are in a range; ``None`` is in each.

    Args:
        range_: A range as the error names it, such as ``">= 1"`` or ``"in [0, 1)"``.
        values: Values by the name of their argument.

    Raises:
        ValueError: A value is outside of the range, or NaN.
    """
    for name, value in values.items():
        if value is not None and not _RANGES[range_](value):
            raise ArgumentError(f"`{name}` must be {range_}, got {value}.")


def check_pixels(**sizes: int | None) -> None:
    """Check heights and widths in pixels; ``None`` is allowed.

    Args:
        sizes: Sizes by the name of their argument.

    Raises:
        ValueError: A size is not in 1 to 16,384.
    """
    check_range(">= 1", **sizes)
    for name, size in sizes.items():
        if size is not None and size > MOST_PIXELS:
            raise ArgumentError(f"`{name}` must be <= {MOST_PIXELS:,} pixels, got {size:,}.")


def check_list(**values: Iterable[object]) -> None:
    """Check that lists are not one text, whose letters would be taken for its items.

    Args:
        values: Lists by the name of their argument.

    Raises:
        ValueError: One is a text.
    """
    for name, value in values.items():
        if isinstance(value, str):
            raise ArgumentError(f"`{name}` must be a list, got the text {value[:40]!r}.")


def check_choice(choices: Collection[str], /, **values: str) -> None:
    """Check that options are among their choices.

    Args:
        choices: The allowed values.
        values: Values by the name of their argument.

    Raises:
        ValueError: A value is none of the choices.
    """
    for name, value in values.items():
        if value not in choices:
            raise ArgumentError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")
