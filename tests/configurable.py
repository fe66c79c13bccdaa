"""The classes of ppssl whose constructors users call."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import ppssl
from ppssl.utils.config import Configurable


def configurable_classes() -> list[type[Any]]:
    """All classes of ppssl that are :class:`Configurable` and have a constructor of their own."""
    for module in pkgutil.walk_packages(ppssl.__path__, "ppssl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {cls for cls in _subclasses(Configurable) if cls.__module__.startswith("ppssl.")}
    return sorted((cls for cls in found if "__init__" in vars(cls)), key=lambda cls: cls.__name__)


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
