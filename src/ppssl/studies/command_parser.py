"""Parser of LightningCLI's commands: how it reads values, and a help without long lists of classes."""

import re
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

__all__ = ["CommandParser"]

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


def _if_few(listed: re.Match[str]) -> str:
    return ")" if listed["names"].count(",") >= _MOST else listed[0]
