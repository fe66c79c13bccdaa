"""The recipes that travel with the package: ``ppssl:folder/pretrain`` names ``experiments/folder/pretrain.yaml``."""

import difflib
from importlib.resources import files
from pathlib import Path

from ppssl.errors import UserError

__all__ = ["BASE", "recipe_path"]

_PREFIX = "ppssl:"
BASE = "ppssl:base"


def recipe_path(name: str) -> str:
    """The file of a recipe named ``ppssl:<folder>/<recipe>``; any other name is a path and comes back as it is.

    Raises:
        UserError: No such recipe or file, with the nearest name.
    """
    if not name.startswith(_PREFIX):
        if not Path(name).is_file():
            raise UserError(f"No such config: {name}{_hint(name)}.")
        return name
    root = Path(str(files("ppssl.experiments")))
    path = root / f"{name.removeprefix(_PREFIX)}.yaml"
    if path.is_file():
        return str(path)
    known = sorted(f"{_PREFIX}{p.relative_to(root).with_suffix('')}" for p in root.rglob("*.yaml"))
    close = difflib.get_close_matches(name, known, n=1)
    raise UserError(f"No such recipe: {name}{f' (did you mean {close[0]}?)' if close else ''}; there are {known}.")


def _hint(name: str) -> str:
    folder = Path(name).parent
    found = [str(p) for p in folder.glob("*.yaml")] if folder.is_dir() else []
    close = difflib.get_close_matches(name, found, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
