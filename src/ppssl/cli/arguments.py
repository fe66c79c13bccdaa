"""Arguments that several commands share, and what is done with them before they are parsed."""

import json
import re
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.inference.embeddings import Feature
from ppssl.studies.recipes import read_yaml, recipe_path, replace_values
from ppssl.utils.config import instantiate
from ppssl.utils.errors import UserError

__all__ = [
    "add_checkpoint",
    "add_data",
    "add_device",
    "add_feature",
    "add_seed",
    "data_section",
    "given_data",
    "split_overrides",
]

_OVERRIDE = re.compile(r"--(data|model|trainer)\.[\w.]+=")


def add_checkpoint(parser: ArgumentParser, text: str = "A checkpoint of `ppssl fit`.") -> None:
    """``CHECKPOINT``; ``text`` is its help."""
    parser.add_argument("checkpoint", type=str, help=text)


def add_data(
    parser: ArgumentParser, text: str = "A recipe; default: the checkpoint's own data set."
) -> None:
    """``--data RECIPE``, see :func:`data_section`; ``text`` is its help."""
    parser.add_subclass_arguments(FineGrainedDataModule, "data", required=False, help=text)


def add_device(parser: ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="`cpu`, `cuda`, ...; default: a GPU if there is one.",
    )


def add_feature(parser: ArgumentParser) -> None:
    """``--feature``."""
    parser.add_argument(
        "--feature",
        type=Feature,
        default="gap",
        help="`gap`: the encoder's own embedding; `branch`: pooled with what IADM attends to.",
    )


def add_seed(parser: ArgumentParser) -> None:
    """``--seed``, for commands that split labels."""
    parser.add_argument(
        "--seed", type=int, default=0, help="For splits, where the data set states none."
    )


def data_section(argv: list[str]) -> list[str]:
    """Replace the value of ``--data``, a recipe, by its ``data:`` section; overrides ``--data.x=y`` go on working."""
    return replace_values(argv, ("--data",), _read_data)


def given_data(parser: ArgumentParser, args: Namespace, checkpoint: str) -> Any:
    """The data set of ``--data``, or where it is not given the one that a checkpoint was trained on.

    Raises:
        UserError: The checkpoint cannot be read or names none, or options are given without a recipe.
    """
    saved = read_checkpoint(checkpoint)["ppssl"]["data"]
    data = parser.instantiate(args).data if args.get("data") else instantiate(saved)
    if data is None:
        raise UserError("The checkpoint does not name its data set: give `--data RECIPE`.")
    if type(data) is FineGrainedDataModule:
        raise UserError("`--data.x=y` changes a recipe: give `--data RECIPE` too.")
    return data


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """A recipe's overrides (``--model.lr=0.1``), and the rest."""
    overrides = [arg for arg in argv if _OVERRIDE.match(arg)]
    return overrides, [arg for arg in argv if arg not in overrides]


def _read_data(name: str) -> str:
    content = read_yaml(name)
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"{recipe_path(name)} has no `data:` section.")
    return json.dumps(content["data"])
