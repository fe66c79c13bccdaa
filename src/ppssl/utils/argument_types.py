"""Types of constructor arguments, checked by their annotations, which are the types of the command line too."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ppssl.utils.errors import ArgumentError

__all__ = ["check_types", "kind_of"]

_PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: ((str, os.PathLike), "a text"),
    NoneType: (NoneType, "None"),
}
"""What counts as a plain type, and its name in messages."""

_LONGEST = 60
"""Characters of a value that a message shows."""


def check_types(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments that a class is called with, as far as ppssl annotates them.

    Raises:
        ArgumentError: One is of another type: a text for a number or a switch, a class for an object, a list for a
            dict.
    """
    positions = list(inspect.signature(cls.__init__).parameters)[1:]  # type: ignore[misc]
    hints = _hints(cls)
    for name, value in {**dict(zip(positions, args, strict=False)), **kwargs}.items():
        _check(name, value, hints.get(name, Any))


def kind_of(value: Any) -> str:
    """What a value is, for messages: ``the class `X` `` or ``a `X` ``."""
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    return f"a `{type(value).__name__}`"


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the arguments by name, as in :func:`~ppssl.utils.config.argument_names`; of others' classes ``Any``."""
    hints: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        init = base.__init__  # type: ignore[misc]
        parameters = inspect.signature(init).parameters
        ours = get_type_hints(init) if base.__module__.startswith("ppssl.") else {}
        hints = {name: ours.get(name, Any) for name in parameters} | hints
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return hints


def _check(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal or _fits(value, hint):  # `check_choice` names the choices
        return
    options = list(_options(hint))
    for option in options:
        if get_origin(option) is dict and isinstance(value, Mapping):
            for key, item in value.items():
                _check(f"{name}.{key}", item, get_args(option)[1])
    remedy = f": give an object, `{value.__name__}(...)`" if isinstance(value, type) else ""
    expected = " or ".join(_described(option) for option in options)
    raise ArgumentError(f"`{name}` must be {expected}, got {_shown(value)}{remedy}.")


def _options(hint: Any) -> Iterator[Any]:
    """The members of a union, or the type itself."""
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from _options(option)
    else:
        yield hint


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; it is where that cannot be told."""
    return any(_fits_option(value, option) for option in _options(hint))


def _fits_option(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return isinstance(value, _PLAIN[hint][0]) and (hint is bool or not isinstance(value, bool))
    if origin is Literal:
        return isinstance(value, tuple(map(type, inner))) and value in inner
    if origin is Callable:
        return callable(value) and not isinstance(value, type)
    if origin is dict:  # or an `nn.ModuleDict`
        return (
            hasattr(value, "items")
            and not isinstance(value, type)
            and all(_fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items())
        )
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and _items_fit(value, inner)
    kind = origin or hint
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _items_fit(values: Sequence[Any], inner: tuple[Any, ...]) -> bool:
    if len(inner) == 1 or inner[-1] is Ellipsis:  # list[X], tuple[X, ...]
        return all(_fits(value, inner[0]) for value in values)
    return len(values) == len(inner) and all(map(_fits, values, inner))


def _described(hint: Any) -> str:
    """A type in messages."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint][1]
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is Callable:
        return "a function"
    if origin is dict:
        return f"a dict by name, each {_described(inner[1])}"
    if origin in (list, tuple):
        several = origin is tuple and inner[-1] is not Ellipsis
        return f"{len(inner) if several else 'a list of'} values, each {_described(inner[0])}"
    return f"a `{(origin or hint).__name__}`"


def _shown(value: Any) -> str:
    """A value in messages: itself if it is plain and short."""
    if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)):
        text = repr(value)
        if len(text) <= _LONGEST and not set("<\n") & set(text):  # no object in it
            return text
    return kind_of(value)
