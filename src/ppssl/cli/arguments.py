"""Arguments that several commands share, and their preprocessing; recipes are read by :mod:`ppssl.utils.recipes`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import extend_base_type

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.inference.data_set import data_for
from ppssl.inference.embeddings import Feature
from ppssl.studies.lightning_cli import replace_values
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand, expand_config
from ppssl.utils.recipes import read_yaml, recipe_path

__all__ = [
    "add_checkpoint",
    "add_data",
    "add_device",
    "add_feature",
    "add_seed",
    "check_separate",
    "expand_data_recipe",
    "load_data",
    "split_overrides",
]


def add_checkpoint(parser: ArgumentParser, text: str = "A checkpoint of `ppssl fit`.") -> None:
    """Add the positional argument ``CHECKPOINT`` with the help ``text``."""
    parser.add_argument("checkpoint", type=str, help=text)


def add_data(
    parser: ArgumentParser,
    text: str = "Recipe with the data set; default: the data set of the checkpoint.",
) -> None:
    """Add ``--data RECIPE`` with the help ``text``, see :func:`expand_data_recipe`."""
    parser.add_subclass_arguments(
        FineGrainedDataModule,
        "data",
        required=False,
        help=text,
        fail_untyped=False,  # of classes outside ppssl, as LightningCLI
    )


def _check_device(_: type, name: str) -> None:
    """Refuse the device without data; others are tried when they are used."""
    if name.startswith("meta"):
        raise ValueError("`--device meta` has no data: choose `cpu`, `auto` or a GPU")


_Device = extend_base_type("Device", str, _check_device)


def add_device(parser: ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        type=_Device,
        default="auto",
        help="Device, such as `cpu` or `cuda`; default: a GPU if there is one.",
    )


def add_feature(parser: ArgumentParser) -> None:
    """Add ``--feature``."""
    parser.add_argument(
        "--feature",
        type=Feature,
        default="gap",
        help="Embedding: `gap`, global average pooling; `branch`, pooling with IADM's attention.",
    )


def add_seed(parser: ArgumentParser) -> None:
    """Add ``--seed``, for commands that split labels."""
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of the splits, if the data set has none."
    )


def check_separate(args: Namespace, outputs: Sequence[str], inputs: Sequence[str] = ()) -> None:
    """Check that each file that is written is no file that is read, nor another one that is written.

    Args:
        args: The parsed arguments.
        outputs: Names of the options that name files to write; ``None`` as their value is left out.
        inputs: Names of the arguments that name files to read, or lists of them.

    Raises:
        UserError: Two of them are the same.
    """
    places: dict[Path, str] = {}
    for name in [*inputs, *outputs]:
        given = args.get(name)
        for value in given if isinstance(given, list) else [given]:
            place = expand(value).resolve() if value else None  # who reads it says that it is empty
            if place is None or (place.exists() and not place.is_file()):
                continue  # such as a pipe, which takes several results
            if name in outputs and place in places:
                raise UserError(
                    f"`--{name}` would replace {places[place]}: {value}. Choose another place."
                )
            places[place] = f"the result of `--{name}`" if name in outputs else "an input"


def expand_data_recipe(argv: list[str]) -> list[str]:
    """Replace the recipe of ``--data`` by its ``data:`` section; overrides ``--data.x=y`` still apply."""
    return replace_values(argv, ("--data",), _read_data)


def load_data(parser: ArgumentParser, args: Namespace, checkpoint: str) -> Any:
    """Instantiate the data set of ``--data``, else the one that the checkpoint was trained on.

    Raises:
        UserError: The checkpoint cannot be read or has no data set, or overrides are given without a recipe.
    """
    if not args.get("data"):
        return data_for(checkpoint)
    read_checkpoint(checkpoint)  # its errors come before those of the data set
    data = parser.instantiate(args).data
    if type(data) is FineGrainedDataModule:
        raise UserError("`--data.x=y` overrides a recipe: give `--data RECIPE` too.")
    return data


def split_overrides(argv: list[str], *more: str) -> tuple[list[str], list[str]]:
    """Split the arguments into options of a run (``--model.lr=0.1`` or ``--model.lr 0.1``) and the rest.

    Args:
        argv: The arguments.
        more: Names of options beside those of the sections ``data``, ``model`` and ``trainer``.

    Returns:
        The options, each as ``--name=value``, and the rest.

    Raises:
        UserError: An option has no value.
    """
    option = re.compile(rf"--({'|'.join(('data', 'model', 'trainer', *more))})(\.[\w.]+)?(=|$)")
    overrides: list[str] = []
    rest: list[str] = []
    remaining = iter(argv)
    for arg in remaining:
        if not option.match(arg):
            rest.append(arg)
            continue
        if "=" not in arg:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise UserError(f"`{arg}` needs a value: `{arg}=...`.")
            arg = f"{arg}={value}"
        overrides.append(arg)
    return overrides, rest


def _read_data(name: str) -> str:
    """Read the ``data:`` section of a recipe as JSON."""
    content = read_yaml(name)
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"{recipe_path(name)} has no `data:` section: give a recipe that has one.")
    return json.dumps(expand_config(content["data"]))
