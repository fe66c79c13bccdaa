"""Recipes: find and read the YAML configurations of model, data set and Trainer, ``ppssl:<data set>/<recipe>``.

``ppssl:folder/pretrain`` is a recipe in the package, ``experiments/folder/pretrain.yaml``. The recipe ``ppssl:base``
holds the defaults; other recipes state only their differences. :mod:`ppssl.studies.lightning_cli` builds
the objects.
"""

import itertools
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ppssl.utils.errors import UserError, did_you_mean, similar_path
from ppssl.utils.paths import AnyPath, expand_text

__all__ = ["BASE_RECIPE", "read_yaml", "recipe_path"]

_PREFIX = "ppssl:"
BASE_RECIPE = "ppssl:base"
_MOST_VALUES = 100_000
"""Number of values from which a recipe is refused: a few aliases of aliases make more than fit into memory."""


def recipe_path(name: AnyPath) -> str:
    """Return the path of a recipe; names without the prefix ``ppssl:`` are paths, of which ``~`` is expanded.

    Raises:
        UserError: The recipe or file does not exist; the message suggests a similar name.
    """
    name = expand_text(name)
    if not name.startswith(_PREFIX):
        if not Path(name).is_file():
            raise UserError(f"No such config: {name}{similar_path(Path(name), '*.yaml')}.")
        return name
    root = Path(str(files("ppssl.experiments")))
    path = root / f"{name.removeprefix(_PREFIX)}.yaml"
    if not path.is_file():
        recipes = sorted(
            f"{_PREFIX}{p.relative_to(root).with_suffix('')}" for p in root.rglob("*.yaml")
        )
        raise UserError(
            f"No such recipe: {name}{did_you_mean(name, recipes)}. Choose one of {', '.join(recipes)}."
        )
    return str(path)


def read_yaml(name: AnyPath) -> Any:
    """Read a recipe or another YAML file.

    Raises:
        UserError: The file does not exist, or is not YAML.
    """
    path = recipe_path(name)
    try:
        content = yaml.safe_load(Path(path).read_text())
        count = sum(1 for _ in itertools.islice(_values(content), _MOST_VALUES))
    except RecursionError as error:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if count == _MOST_VALUES:
        raise UserError(
            f"{path} has more than {_MOST_VALUES:,} values, if each alias (`*name`) is counted as what it repeats: "
            "write it without them."
        )
    return content


def _values(content: Any) -> Iterator[Any]:
    """All values of a content, those that aliases repeat as often as they do."""
    yield content
    if isinstance(content, dict | list):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _values(item)
