"""Recipes: find and read the YAML configurations of model, data set and Trainer, ``ppssl:<data set>/<recipe>``.

``ppssl:folder/pretrain`` is a recipe in the package, ``experiments/folder/pretrain.yaml``. The recipe ``ppssl:base``
holds the defaults; other recipes state only their differences. :mod:`ppssl.studies.lightning_cli` builds
the objects.
"""

import itertools
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ppssl.utils.errors import UserError, did_you_mean, similar_path
from ppssl.utils.paths import AnyPath, expand_text

__all__ = ["BASE_RECIPE", "read_yaml", "recipe_path"]

_PREFIX = "ppssl:"
_OTHERS = r"ppssl:(ablation|teacher)/"
"""Names of files beside the recipes, which are studies and trainings of teachers."""
_LARGEST = 2**18
"""Size in bytes from which a file is refused as YAML."""
BASE_RECIPE = "ppssl:base"
_MOST_VALUES = 100_000
"""Number of values from which a recipe is refused: a few aliases of aliases make more than fit into memory."""


class _StrictLoader(yaml.SafeLoader):
    """Safe loader that refuses a key that is given twice, of which YAML would drop the first silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for twice in sorted({key for key in keys if keys.count(key) > 1 and key != "<<"}):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(
                f"`{twice}` is given twice in the mapping that begins in line {line}"
            )
        return super().construct_mapping(node, deep)


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
        names = [r.removeprefix(_PREFIX) for r in recipes if not re.match(_OTHERS, r)]
        hint = did_you_mean(name, recipes, f": those of the package are {', '.join(names)}")
        raise UserError(f"No such recipe: {name}{hint}.")
    return str(path)


def read_yaml(name: AnyPath) -> Any:
    """Read a recipe or another YAML file.

    Raises:
        UserError: The file does not exist, or is not YAML.
    """
    path = recipe_path(name)
    size = Path(path).stat().st_size
    if size > _LARGEST:
        raise UserError(f"{path} is not valid YAML: it has {size:,} bytes, more than any recipe.")
    try:
        content = yaml.load(Path(path).read_text("utf-8-sig"), _StrictLoader)  # a safe loader
        count = sum(1 for _ in itertools.islice(_values(content), _MOST_VALUES))
    except RecursionError as error:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: it is not text in UTF-8.") from error
    except (yaml.YAMLError, ValueError) as error:
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
