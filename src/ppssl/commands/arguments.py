"""What commands with a data set do with their arguments before they parse them."""

import json
from pathlib import Path

import yaml

from ppssl.errors import UserError
from ppssl.recipes import recipe_path

__all__ = ["data_section"]


def data_section(argv: list[str]) -> list[str]:
    """Replace the value of ``--data``, a recipe, by its ``data:`` section; overrides ``--data.x=y`` go on working."""
    resolved: list[str] = []
    for previous, arg in zip(["", *argv], argv, strict=False):
        if previous == "--data":
            resolved.append(_read_data(arg))
        elif arg.startswith("--data="):
            resolved.append(f"--data={_read_data(arg.removeprefix('--data='))}")
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
