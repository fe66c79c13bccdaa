"""Parser of LightningCLI's commands: how it reads values, and a help without long lists of classes."""

import re
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info

__all__ = ["CommandParser", "RecipeParser"]

_OF_COMMANDS = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""Options of Trainer commands, which are in the ``config.yaml`` that a command writes."""

_KNOWN_SUBCLASSES = re.compile(r",\s+known\s+subclasses:\s(?P<names>[^()]*)\)")

_MOST = 50
"""Largest number of known subclasses that the help of an argument lists."""


_load_yaml = get_loader("yaml")


def _load_value(text: str) -> Any:
    """YAML, and Python's ``None``: for an option of a nested object jsonargparse turns null into this word."""
    return None if text.strip() == "None" else _load_yaml(text)


set_loader("yaml", _load_value, exceptions=(yaml.YAMLError,))


class CommandParser(LightningArgumentParser):
    """LightningCLI's parser, whose help leaves out the known subclasses of a type if there are more than 50.

    jsonargparse lists every subclass that is imported: over a thousand for an ``nn.Module``.
    """

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help; the arguments are those of jsonargparse, whose releases differ in them."""
        return _KNOWN_SUBCLASSES.sub(_if_few, super().format_help(*args, **kwargs))


class RecipeParser(CommandParser):
    """Parser without a command: of a ``config.yaml`` it passes over the options of the command that wrote it."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Read a recipe; the other arguments are those of jsonargparse, whose releases differ in them."""
        content = super().parse_path(path, *args, **kwargs)
        of_command = {name: content.pop(name, None) for name in _OF_COMMANDS}
        if of_command["ckpt_path"] is not None:
            rank_zero_info(f"`ckpt_path` of {path} is passed over: it is of the run that wrote it.")
        return content


def _if_few(listed: re.Match[str]) -> str:
    return ")" if listed["names"].count(",") >= _MOST else listed[0]
