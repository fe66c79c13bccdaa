"""Objects from their configurations (:mod:`ppssl.utils.config`), which may come from an untrusted file."""

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from ppssl.utils.config import Configurable, is_object
from ppssl.utils.errors import UserError

__all__ = ["construct", "instantiate", "resolve_class"]


def instantiate(config: Any, argument: str = "") -> Any:
    """Create the object of a configuration; all classes in it are checked before the first one is called.

    Args:
        config: A configuration of :meth:`Configurable.config`; other plain data are returned unchanged.
        argument: What it is of, for messages (:func:`resolve_class`).

    Raises:
        UserError: A class is foreign, or an argument of an object was no plain data.
    """
    _check_classes(config, argument)
    return _build(config)


def construct(cls: type, arguments: Mapping[str, Any]) -> Any:
    """Call a class; arguments behind its ``**kwargs`` that its constructor passes to its base itself are dropped."""
    while True:
        try:
            return cls(**arguments)
        except TypeError as error:
            clash = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error))
            if not clash or clash[1] in inspect.signature(cls).parameters:
                raise
            arguments = {name: value for name, value in arguments.items() if name != clash[1]}


def resolve_class(class_path: str, argument: str = "") -> type:
    """Return the class of an import path, if it belongs to ppssl or its module is already imported.

    No other module is imported but transformers: a class path in a file is untrusted, and importing a module runs its
    code.

    Args:
        class_path: The import path.
        argument: What the object is of, for messages: ``backbone``, ``plugins``, ``contrastive`` or ``data``.

    Raises:
        UserError: The module is not part of ppssl and not imported, or it has no such class: a :class:`Configurable`,
            or a model of transformers.
    """
    module_name, _, name = class_path.rpartition(".")
    if module_name in ("ppssl", "transformers") or module_name.startswith("ppssl."):
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
            f"trust it (`ppssl --import {module_name} ...`){_pass(argument)}."
        )
    cls = getattr(module, name, None)
    if cls is None:
        raise UserError(_no_such_class(module_name, name, argument))
    if not (isinstance(cls, type) and issubclass(cls, _callable_classes())):
        raise UserError(
            f"`{class_path}` cannot be rebuilt from a checkpoint: it is not a `Configurable` class."
        )
    return cls


def _pass(argument: str) -> str:
    """The end of a message: how to give the object of an argument in Python, where that is possible."""
    calls = {
        "backbone": "`load_encoder(path, backbone=...)`, `PPSSL.load_from_checkpoint(path, backbone=...)`",
        "plugins": "`PPSSL.load_from_checkpoint(path, plugins={...})`",
        "contrastive": "`PPSSL.load_from_checkpoint(path, contrastive=...)`",
        "data": "`evaluate(path, data)`, `embed(path, data, out)`",
    }
    return f", or pass the object itself ({calls[argument]})" if argument in calls else ""


def _no_such_class(module_name: str, name: str, argument: str) -> str:
    if module_name != "__main__":
        return f"`{module_name}` has no class `{name}`: was it renamed or moved?"
    return (
        f"`{name}` was defined in the main file of another program: import it in the main file of this one (`from "
        f"MODULE import {name}`){_pass(argument)}."
    )


def _callable_classes() -> tuple[type, ...]:
    """Classes whose subclasses are called: :class:`Configurable`, and the models of transformers if it is imported."""
    models = getattr(
        sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", Configurable
    )
    return (Configurable, models)


def _check_classes(value: Any, argument: str = "") -> None:
    """Check the classes of a value; ``argument`` is the outermost one that it belongs to."""
    if is_object(value):
        resolve_class(value["class_path"], argument)
        value = value["init_args"]
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_classes(item, argument or name)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_classes(item, argument)


def _build(value: Any) -> Any:
    if is_object(value):
        for name, kind in value.get("not_saved", {}).items():
            raise UserError(
                f"`{value['class_path']}({name}=...)` was a `{kind}`, which no file holds: pass the object itself."
            )
        cls, arguments = resolve_class(value["class_path"]), _build(value["init_args"])
        if hasattr(cls, "config_class"):  # a model of transformers
            arguments = {"config": cls.config_class.from_dict(arguments["config"])}
        return construct(cls, arguments)
    if isinstance(value, Mapping):
        return {name: _build(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_build(item) for item in value)
    return value
