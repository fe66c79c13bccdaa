"""What several commands do with their arguments before they parse them."""

import json
import re

from ppssl.errors import UserError
from ppssl.recipes import read_yaml, recipe_path, replace_values

__all__ = ["data_section", "split_overrides"]

_OVERRIDE = re.compile(r"--(data|model|trainer)\.[\w.]+=")


def data_section(argv: list[str]) -> list[str]:
    """Replace the value of ``--data``, a recipe, by its ``data:`` section; overrides ``--data.x=y`` go on working."""
    return replace_values(argv, ("--data",), _read_data)


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """A recipe's overrides (``--model.lr=0.1``), and the rest."""
    overrides = [arg for arg in argv if _OVERRIDE.match(arg)]
    return overrides, [arg for arg in argv if arg not in overrides]


def _read_data(name: str) -> str:
    content = read_yaml(name)
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"{recipe_path(name)} has no `data:` section.")
    return json.dumps(content["data"])
