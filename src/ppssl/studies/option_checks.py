"""Options of a study, parsed for all variants before the first run, by the parser of the runs."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from ppssl.studies.command_checks import refuse_nulls
from ppssl.studies.error_messages import describe_error
from ppssl.studies.lightning_cli import PPSSLCLI
from ppssl.studies.study import command_line
from ppssl.utils.errors import UserError

__all__ = ["check_options"]

_NAMED = 3
"""Most variants that a message names."""


_ELSEWHERE = {
    "seed": "`seeds` of the study lists the seeds",
    "seed_everything": "`seeds` of the study lists the seeds",
    "config": "`recipe` of the study is the only recipe",
    "resume": "runs without a result begin anew",
    "trainer.default_root_dir": "the folder is that of `ppssl ablate --work`",
}
"""Options that an override of a run cannot change, with the reason."""
_SECTIONS = ("trainer", "model", "data", "checkpoint")


class _ParserOnly(PPSSLCLI):
    """Parses a command line, and creates nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Refuse abbreviated options: the key of a run has the names as they are written."""
        super().add_arguments_to_parser(parser)
        parser.allow_abbrev = False

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
        UserError: Some options are unknown, abbreviated, not for an override, or their values of the wrong type: all
            of them, and the variants that have them.
    """
    variants: dict[str, tuple[Mapping[str, Any], Sequence[str]]] = {}
    for run, local in runs:
        variants.setdefault(run["variant"], (run, local))
    problems: dict[str, list[str]] = {}
    with _working_folder_importable():
        for name, (run, local) in variants.items():
            args = ["--config", run["recipe"], *command_line(run, local), "--seed_everything=false"]
            if problem := _name_problem(run["overrides"], local) or _problem(args):
                problems.setdefault(problem, []).append(name)
    if problems:
        lines = [
            f"{text.rstrip('.')} ({_listed(names, len(variants))})"
            for text, names in problems.items()
        ]
        raise UserError(f"The study cannot be run: {'; '.join(lines)}.")


def _name_problem(overrides: Mapping[str, Any], local: Sequence[str]) -> str | None:
    """What is wrong with the names of options, in one line: a setting must have one name, of which the key is made."""
    local_names = [override.removeprefix("--").partition("=")[0] for override in local]
    for name in [*overrides, *local_names]:
        if name in _ELSEWHERE:
            return f"`{name}` cannot be overridden: {_ELSEWHERE[name]}"
    for name, value in overrides.items():
        parts = name.split(".")
        if "init_args" in parts:
            short = ".".join(part for part in parts if part != "init_args")
            return f"`{name}`: write `{short}`"
        if name in _SECTIONS and isinstance(value, Mapping):
            inner = next(iter(value.get("init_args") or value), "option")
            return f"`{name}` is a whole section: write its options by dotted names, such as `{name}.{inner}`"
    return None


def _problem(args: Sequence[str]) -> str | None:
    """What the parser says against a command line, in one line."""
    try:
        _ParserOnly(args)
    except Exception as error:
        _, message = describe_error(error)
        if message is None:
            raise
        return message
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
