"""Configurations: objects as plain data in checkpoints, instead of pickles.

As in scikit-learn, an object keeps each constructor argument unchanged in an attribute of the same name. Its
configuration is ``{"class_path": ..., "init_args": {...}}``, the form that LightningCLI reads;
:mod:`ppssl.utils.instantiate` makes the object again. YAML configurations of a whole run are recipes
(:mod:`ppssl.utils.recipes`).
"""

import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np

from ppssl.utils.argument_types import check_types

__all__ = [
    "Configurable",
    "NotSaved",
    "argument_names",
    "class_path_of",
    "flat_config",
    "is_object",
    "main_file_classes",
    "not_saved",
    "plain_config",
    "plain_items",
]

_PLAIN = (bool, int, float, str, type(None))
_GIVEN = "_given_arguments"
_DEFAULT = object()


@dataclass(frozen=True)
class NotSaved:
    """Stands for an argument that is no plain data.

    Attributes:
        kind: Name of its type.
    """

    kind: str


class Configurable:
    """Base class of objects that can be rebuilt from their configuration; arguments of another type are refused.

    Of classes outside ppssl the arguments are also recorded as they are given, for those that keep one under another
    name or in another form.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create an object after checking its arguments; of a class outside ppssl with a record of them."""
        check_types(cls, args, kwargs)
        self = super().__new__(cls)
        if not cls.__module__.startswith("ppssl."):
            self.__dict__[_GIVEN] = _record(cls, args, kwargs)
        return self

    def config(self) -> dict[str, Any]:
        """Return the configuration, ``{"class_path": ..., "init_args": ...}``, of plain types.

        Arguments that are no plain data, such as functions, are left out: ``"not_saved"`` has their types by name, and
        who rebuilds the object must give them.

        Raises:
            TypeError: A class of ppssl does not keep an argument in the attribute of its name.
        """
        cls = type(self)
        init_args, not_saved = {}, {}
        for name in argument_names(cls):
            value = _argument(self, name)
            if isinstance(value, NotSaved):
                not_saved[name] = value.kind
            elif value is not _DEFAULT:
                init_args[name] = value
        config = {"class_path": class_path_of(cls), "init_args": init_args}
        return config | {"not_saved": not_saved} if not_saved else config


def class_path_of(cls: type) -> str:
    """Return the import path of a class: ``ppssl.MoCo`` if its top-level package exports it, else the full path."""
    package = cls.__module__.partition(".")[0]
    public = getattr(sys.modules.get(package), cls.__name__, None) is cls
    return f"{package}.{cls.__name__}" if public else f"{cls.__module__}.{cls.__qualname__}"


def plain_config(module: Any) -> "dict[str, Any] | NotSaved":
    """Return the configuration of an object that need not be :class:`Configurable`, as far as it can be told.

    It can be told of a :class:`Configurable` and of a model of transformers.
    """
    if isinstance(module, Configurable):
        return module.config()
    cls = type(module)
    if hasattr(cls, "config_class") and hasattr(module, "config"):  # transformers
        return {"class_path": class_path_of(cls), "init_args": {"config": module.config.to_dict()}}
    return NotSaved(cls.__name__)


def not_saved(config: Any, name: str = "") -> dict[str, str]:
    """Return the types of all arguments that a configuration does not hold, by dotted name."""
    found: dict[str, str] = {}
    items = config.items() if isinstance(config, Mapping) else ()
    if is_object(config):
        found = {f"{name}.{key}".lstrip("."): v for key, v in config.get("not_saved", {}).items()}
        items = config["init_args"].items()
    for key, value in items:
        found |= not_saved(value, f"{name}.{key}".lstrip("."))
    return found


def main_file_classes(config: Any, name: str = "") -> dict[str, str]:
    """Return the classes of the arguments that are defined in the program's main file, by dotted name."""
    found: dict[str, str] = {}
    items = config.items() if isinstance(config, Mapping) else ()
    if is_object(config):
        module, _, cls = config["class_path"].rpartition(".")
        found = {name: cls} if name and module == "__main__" else {}
        items = config["init_args"].items()
    for key, value in items:
        found |= main_file_classes(value, f"{name}.{key}".lstrip("."))
    return found


def plain_items(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items that are plain data."""
    return {name: value for name, value in values.items() if not _holds_objects(value)}


def flat_config(config: Any) -> Any:
    """Return a configuration as loggers show it: arguments beside ``class_path``, without ``init_args``."""
    if is_object(config):
        left_out = config.get("not_saved", {})
        config = {"class_path": config["class_path"], **config["init_args"], **left_out}
    if isinstance(config, Mapping):
        return {name: flat_config(value) for name, value in config.items()}
    return config


def _holds_objects(value: Any) -> bool:
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (list, tuple)):
        items = value
    elif type(value) not in _PLAIN:
        return True
    return any(map(_holds_objects, items))


def is_object(value: Any) -> bool:
    """Whether plain data are the configuration of an object."""
    keys = set(value) - {"not_saved"} if isinstance(value, Mapping) else set()
    return keys == {"class_path", "init_args"}


def argument_names(cls: type) -> list[str]:
    """Return the names of the constructor arguments, including those that are passed on by ``**kwargs``."""
    names = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # without **kwargs the arguments of the base classes cannot be passed
    return list(dict.fromkeys(names))


def _record(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a constructor as plain data, by name; :class:`NotSaved` for others."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # of the class that is called
    try:
        bound = signature.bind_partial(None, *args, **kwargs).arguments
    except TypeError:  # as the constructor will say
        return {}
    given: dict[str, Any] = {}
    for name, value in list(bound.items())[1:]:
        several = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        given |= value if several else {name: value}
    return {name: _plain_or_not_saved(value) for name, value in given.items()}


def _argument(owner: Any, name: str) -> Any:
    """Plain form of an argument: of the attribute of its name, else as it was given."""
    value = getattr(owner, name, _DEFAULT)
    kept = value if value is _DEFAULT else _plain_or_not_saved(value)
    given = vars(owner).get(_GIVEN)
    if given is None and value is _DEFAULT:
        cls = type(owner).__name__
        raise TypeError(
            f"`{cls}` must keep its argument `{name}` as `self.{name}`, so that checkpoints can rebuild it."
        )
    if kept is _DEFAULT or isinstance(kept, NotSaved):
        return (given or {}).get(name, kept)
    return kept


def _plain_or_not_saved(value: Any) -> Any:
    if isinstance(value, NotSaved):
        return value
    try:
        return _plain(value)
    except _NotPlainError:
        return NotSaved(type(value).__name__)


class _NotPlainError(TypeError):
    """A value is neither plain data nor a :class:`Configurable`."""


def _plain(value: Any) -> Any:
    if isinstance(value, Configurable):
        return value.config()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if hasattr(value, "items"):
        return {str(name): _plain(item) for name, item in value.items()}
    raise _NotPlainError
