"""Configurations: objects as plain data in checkpoints, instead of pickles.

As in scikit-learn, an object keeps each constructor argument unchanged in an attribute of the same name. Its
configuration is ``{"class_path": ..., "init_args": {...}}``, the form that LightningCLI reads. YAML configurations
of a whole run are recipes (:mod:`ppssl.utils.recipes`).
"""

import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ppssl.utils.errors import UserError

__all__ = ["Configurable", "class_path_of", "instantiate", "resolve_class"]

_PLAIN = (bool, int, float, str, type(None))


class Configurable:
    """Base class of objects that can be rebuilt from their configuration."""

    def config(self) -> dict[str, Any]:
        """Return the configuration, ``{"class_path": ..., "init_args": ...}``, of plain types.

        Raises:
            TypeError: An argument is not kept in the attribute of its name, or is not plain data.
        """
        cls = type(self)
        init_args = {
            name: _plain(_argument(self, name), f"{cls.__name__}({name}=...)")
            for name in _argument_names(cls)
        }
        return {"class_path": class_path_of(cls), "init_args": init_args}


def class_path_of(cls: type) -> str:
    """Return the import path of a class: ``ppssl.MoCo`` if its top-level package exports it, else the full path."""
    package = cls.__module__.partition(".")[0]
    public = getattr(sys.modules.get(package), cls.__name__, None) is cls
    return f"{package}.{cls.__name__}" if public else f"{cls.__module__}.{cls.__qualname__}"


def resolve_class(class_path: str) -> type:
    """Return the class of an import path, if it belongs to ppssl or its module is already imported.

    No other module is imported: a class path in a file is untrusted, and importing a module runs its code.

    Raises:
        UserError: The module is not part of ppssl and not imported, or it has no such :class:`Configurable`.
    """
    module_name, _, name = class_path.rpartition(".")
    if module_name == "ppssl" or module_name.startswith("ppssl."):
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"`{class_path}`: this version of ppssl has no module `{module_name}`. Was the checkpoint written by "
                "another version?"
            ) from error
    module = sys.modules.get(module_name)
    if module is None:
        raise UserError(
            f"`{class_path}` is not part of ppssl and its module is not imported: import `{module_name}` first if you "
            "trust it, or pass the object itself (`PPSSL.load_from_checkpoint(path, plugins={...})`)."
        )
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise UserError(
            f"`{class_path}` cannot be rebuilt from a checkpoint: it is not a `Configurable` class."
        )
    return cls


def instantiate(config: Any) -> Any:
    """Create the object of a configuration; all classes in it are checked before the first one is called.

    Args:
        config: A configuration of :meth:`Configurable.config`; other plain data are returned unchanged.
    """
    _check_classes(config)
    return _build(config)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"class_path", "init_args"}


def _check_classes(value: Any) -> None:
    if _is_object(value):
        resolve_class(value["class_path"])
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (list, tuple)):
        items = value
    for item in items:
        _check_classes(item)


def _build(value: Any) -> Any:
    if _is_object(value):
        return resolve_class(value["class_path"])(**_build(value["init_args"]))
    if isinstance(value, Mapping):
        return {name: _build(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_build(item) for item in value)
    return value


def _argument_names(cls: type) -> list[str]:
    """Names of the constructor arguments, including those that are passed on by ``**kwargs``."""
    names = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # without **kwargs the arguments of the base classes cannot be passed
    return list(dict.fromkeys(names))


def _argument(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        cls = type(owner).__name__
        raise TypeError(
            f"`{cls}` must keep its argument `{name}` as `self.{name}`, so that checkpoints can rebuild it."
        ) from None


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Configurable):
        return value.config()
    if isinstance(value, float):
        return float(value)  # np.float64 is a subclass of float, but not plain data
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, where) for item in value)
    if hasattr(value, "items"):
        return {str(name): _plain(item, where) for name, item in value.items()}
    raise TypeError(
        f"{where} must be plain data or a Configurable to be saved in a checkpoint, got {type(value).__name__}."
    )
