"""What all commands do with their arguments before they parse them."""

import itertools
import json
from pathlib import Path

import yaml

from ppssl.errors import UserError
from ppssl.recipes import recipe_path

__all__ = ["data_section", "resolve_recipes"]


def resolve_recipes(argv: list[str]) -> list[str]:
    """Replace the values of ``--config`` by the files they name."""
    resolved: list[str] = []
    for previous, arg in itertools.pairwise(["", *argv]):
        if previous in ("--config", "-c"):
            resolved.append(recipe_path(arg))
        elif arg.startswith("--config="):
            resolved.append(f"--config={recipe_path(arg.removeprefix('--config='))}")
        else:
            resolved.append(arg)
    return resolved


def data_section(argv: list[str], option: str = "--data") -> list[str]:
    """Replace the value of ``--data``, a recipe, by its ``data:`` section; overrides ``--data.x=y`` go on working."""
    resolved: list[str] = []
    for previous, arg in itertools.pairwise(["", *argv]):
        if previous == option and not arg.startswith("{"):
            resolved.append(_read_data(arg))
        elif arg.startswith(f"{option}=") and not arg.startswith(f"{option}={{"):
            resolved.append(f"{option}={_read_data(arg.removeprefix(f'{option}='))}")
        else:
            resolved.append(arg)
    return resolved


def _read_data(name: str) -> str:
    path = Path(recipe_path(name))
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"{path} has no `data:` section.")
    return json.dumps(content["data"])
