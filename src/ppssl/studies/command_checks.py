"""Checks of a Trainer command before it runs: Lightning's own options, and the checkpoint that it is to load."""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import NoneType
from typing import Any, get_args, get_type_hints

import timm
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ppssl.checkpointing.atomic import newest_checkpoint
from ppssl.checkpointing.files import read_plain
from ppssl.checkpointing.module import TrainingModule
from ppssl.classify.base import Classifier
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.paths import expand

__all__ = [
    "check_checkpoint",
    "expand_class_name",
    "refuse_nulls",
    "require_weights",
    "trainer_options",
]


def expand_class_name(config: Any) -> None:
    """Write ``backbone: my.module.Class`` as ``{class_path: my.module.Class}``, in place.

    Args:
        config: A parsed configuration. jsonargparse leaves the name as it is, since a backbone may be timm's name.
    """
    arguments = getattr(config.get("model"), "init_args", None) or {}
    name = arguments.get("backbone")
    if not isinstance(name, str) or "." not in name or timm.is_model(name):
        return
    module, _, attribute = name.rpartition(".")
    with suppress(ImportError, AttributeError):
        getattr(importlib.import_module(module), attribute)
        arguments["backbone"] = Namespace(class_path=name)


def refuse_nulls(config: Any, name: str = "") -> None:
    """Refuse null for arguments that do not take it; jsonargparse checks the types of other values only.

    Args:
        config: A parsed configuration, with ``class_path`` and ``init_args`` of each object.
        name: Its place, for the message.

    Raises:
        UserError: An argument is null, and its type does not have ``None``.
    """
    if isinstance(config, list):
        for i, item in enumerate(config):
            refuse_nulls(item, f"{name}[{i}]")
    parsed = hasattr(config, "__dict__")
    items = dict(vars(config)) if parsed else config
    if not isinstance(items, dict):
        return
    if parsed and set(items) >= {"class_path", "init_args"}:  # else data that only look like it
        items = dict(vars(items["init_args"])) if items["init_args"] is not None else {}
        hints = _types_of_required_values(config.class_path)
        for key in (key for key, value in items.items() if value is None and key in hints):
            if hints[key] is not Any and NoneType not in (hints[key], *get_args(hints[key])):
                raise UserError(f"`{name}.{key}` cannot be null: leave it out for its default.")
    for key, value in items.items():
        refuse_nulls(value, f"{name}.{key}".lstrip("."))


def _types_of_required_values(class_path: str) -> dict[str, Any]:
    """Types of a class's arguments whose default is not null, those passed on by ``**kwargs`` too."""
    module, _, attribute = class_path.rpartition(".")
    cls, found = getattr(importlib.import_module(module), attribute), dict[str, Any]()
    for base in inspect.getmro(cls) if inspect.isclass(cls) else ():
        with suppress(NameError, TypeError, KeyError):  # types imported for checkers only
            made: Any = vars(base)["__init__"]
            parameters, hints = inspect.signature(made).parameters, get_type_hints(made)
            optional = {name for name, p in parameters.items() if p.default is None}
            found = {name: hint for name, hint in hints.items() if name not in optional} | found
    return found


@contextmanager
def trainer_options() -> Iterator[None]:
    """Turn Lightning's errors about the Trainer's options into one line.

    Raises:
        UserError: With Lightning's reason.
    """
    try:
        yield
    except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"`trainer` cannot be created: {' '.join(str(error).split())}") from error


def require_weights(model: Any, command: str) -> None:
    """Refuse to measure or use weights that are random.

    Args:
        model: The model; of one that is not of ppssl nothing is known.
        command: ``"validate"``, ``"test"`` or ``"predict"``.

    Raises:
        UserError: The model has neither pretrained weights nor a checkpoint.
    """
    if isinstance(model, Classifier):
        raise UserError(
            "The classifier is not trained: give its checkpoint with `--ckpt_path path/to/last.ckpt`."
        )
    if isinstance(model, TrainingModule) and not getattr(model, "pretrained", False):
        raise UserError(
            f"`ppssl {command}` has random weights only: give a checkpoint with `--ckpt_path path/to/last.ckpt`, or "
            "`--model.pretrained` weights."
        )


def check_checkpoint(option: str, text: str) -> None:
    """Check that a checkpoint can be read, before anything else is done.

    Args:
        option: The option that it is given by, for the messages.
        text: Its path; a place that is not a local file is left to Lightning.

    Raises:
        UserError: There is no such file, or it is no checkpoint.
    """
    if "://" in text or text == "hpc" or text.startswith("registry:"):
        return
    path = expand(text)
    if path.is_dir():
        newest = newest_checkpoint(path)
        hint = f"such as {newest}" if newest else "but there is no checkpoint in it"
        raise UserError(f"`{option}`: {path} is a folder: give the file, {hint}.")
    if not path.is_file():
        raise UserError(
            f"`{option}`: no such checkpoint: {path}{similar_path(path, '*.ckpt')}. `--resume auto` selects the newest "
            "one below `trainer.default_root_dir`."
        )
    content = read_plain(path, "a checkpoint", mmap=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"`{option}`: {path} is no checkpoint of a run: it has no `state_dict`.")
