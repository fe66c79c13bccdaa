"""Options of a study, parsed for all variants before the first run, by the parser of the runs."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ppssl.studies.command_checks import refuse_nulls
from ppssl.studies.lightning_cli import PPSSLCLI
from ppssl.studies.parser_messages import parser_message
from ppssl.studies.study import command_line
from ppssl.utils.errors import UserError

__all__ = ["check_options"]

_NAMED = 3
"""Most variants that a message names."""


class _ParserOnly(PPSSLCLI):
    """Parses a command line, and creates nothing."""

    def before_instantiate_classes(self) -> None:
        """Check what the parser lets pass; no folder is made."""
        refuse_nulls(self.config)

    def instantiate_classes(self) -> None:
        """Create nothing."""


def check_options(runs: Sequence[tuple[Mapping[str, Any], Sequence[str]]]) -> None:
    """Parse the settings of each variant, with those of this machine.

    Args:
        runs: Runs of a study, with the local overrides of each; of a variant the first one is parsed.

    Raises:
        UserError: Some options are unknown or their values of the wrong type: all of them, and the variants that have
            them.
    """
    variants: dict[str, list[str]] = {}
    for run, local in runs:
        variants.setdefault(run["variant"], ["--config", run["recipe"], *command_line(run, local)])
    problems: dict[str, list[str]] = {}
    with _working_folder_importable():
        for name, args in variants.items():
            if problem := _problem([*args, "--seed_everything=false"]):
                problems.setdefault(problem, []).append(name)
    if problems:
        lines = [
            f"{text.rstrip('.')} ({_listed(names, len(variants))})"
            for text, names in problems.items()
        ]
        raise UserError(f"The study cannot be run: {'; '.join(lines)}.")


def _problem(args: Sequence[str]) -> str | None:
    """What the parser says against a command line, in one line."""
    try:
        _ParserOnly(args)
    except UserError as error:
        return str(error)
    except (ArgumentError, ValueError) as error:
        text = str(error)
        if isinstance(error, ArgumentError) or "Does not validate" in text:
            return parser_message(text)
        raise
    return None


def _listed(names: Sequence[str], variants: int) -> str:
    """The variants that have a problem."""
    if len(names) == variants > 1:
        return "all variants"
    named = ", ".join(f"`{name}`" for name in names[:_NAMED])
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{'variant' if len(names) == 1 else 'variants'} {named}{rest}"


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Find modules in the working folder, as the runs do (``python -m``)."""
    path = sys.path
    sys.path = [*path, os.getcwd()]
    try:
        yield
    finally:
        sys.path = path
