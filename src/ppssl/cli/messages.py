"""Errors in one line: what is wrong, the value, what to do."""

import difflib
import importlib
import inspect
import re
from argparse import ArgumentError as ArgparseError
from collections.abc import Iterator

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from ppssl.checkpointing.atomic import is_full
from ppssl.checkpointing.run_checkpoint import RunCheckpoint
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError, did_you_mean

__all__ = ["describe"]

_LOST = re.compile(
    r"Timed out waiting \d+ms for (send|recv)|Connection (closed|reset) by peer|Broken pipe|"
    r"Watchdog caught collective operation timeout|No route to host",
)
"""What gloo and NCCL say when a process, its machine or the network between them is gone."""

_SECTIONS = {"trainer": Trainer, "checkpoint": RunCheckpoint}
_TOP = (
    "config",
    "seed_everything",
    "trainer",
    "model",
    "data",
    "checkpoint",
    "checkpoint_io",
    "resume",
    "ckpt_path",
    "out",
    "seed",
    "json",
)


def describe(error: BaseException) -> tuple[int, str | None]:
    """Exit code and message of an error; no message where it is ours, and its traceback should be seen."""
    for link in _chain(error):
        if isinstance(link, UserError):
            return 2, _line(str(link))
        if isinstance(link, ValueError) and str(link).startswith("`"):  # our own argument checks
            return 2, _line(str(link))
        if isinstance(link, RuntimeError) and "killed by signal: Terminated" in str(link):
            return (
                143,
                "Terminated, a worker first; `ppssl fit ... --resume auto` goes on from the last checkpoint.",
            )
        if isinstance(link, RuntimeError) and _LOST.search(str(link)):
            said = _line(str(link))[:200].rstrip(".")
            return 1, (
                f"Lost another process: {said}. When all are back, the same command on each of them with "
                "`--resume auto` goes on from the last checkpoint."
            )
        if is_full(link):
            return (
                2,
                f"No space left on the disk ({_line(str(link))}): make room, then go on with `--resume auto`.",
            )
    if isinstance(error, ArgparseError):
        return 2, _parser_message(str(error))
    if isinstance(error, MisconfigurationException):
        return 2, _line(str(error))
    if isinstance(error, ValueError) and "Does not validate" in str(error):
        return 2, _parser_message(str(error))
    return 1, None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(text: str) -> str:
    return " ".join(text.split())


def _parser_message(text: str) -> str:
    """The innermost of what jsonargparse says, and the nearest option."""
    option = re.findall(r"Option '([^']+)' is not accepted", text)
    if option:
        owner = re.findall(r"class_path '([^']+)'", text)[-1]
        hint = did_you_mean(option[-1], _options_of(owner), "; see --help")
        return f"`{option[-1]}` is no option of {owner}{hint}."
    wrong = re.findall(
        r'(?:Parser key|key) "([^"]+)":\s+(Expected [^\n]+?)\. Got value: ([^\n]+)', text
    )
    if wrong:
        name, expected, value = wrong[-1]
        expected = re.sub(r"<class '([^']+)'>", r"\1", expected).replace("typing.", "")
        return f"`{name}`: {expected[0].lower()}{expected[1:]}, got {value}."
    unknown = re.findall(r"[Uu]nrecognized arguments: (\S+)", text)
    if unknown:
        return f"No such option: {unknown[0]}{_nearest_option(unknown[0])}."
    lines = [
        line.strip(" -")
        for line in text.splitlines()
        if line.strip(" -") and "NoneType" not in line
    ]
    told = [
        line
        for line in lines
        if not line.startswith(("Given value", "Subtypes", "Errors", "Does not validate"))
    ]
    return _line((told or lines)[-1])


def _options_of(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    bases = [b for b in cls.__mro__ if issubclass(b, Configurable) and "__init__" in vars(b)] or [
        cls
    ]
    return [p for base in bases for p in inspect.signature(base).parameters]


def _nearest_option(option: str) -> str:
    name = option.lstrip("-").partition("=")[0]
    section, _, rest = name.partition(".")
    if section in _SECTIONS and rest:
        known = [f"--{section}.{p}" for p in inspect.signature(_SECTIONS[section]).parameters]
    else:
        top = difflib.get_close_matches(section, _TOP, n=1)
        known = [f"--{t}.{rest}" if rest else f"--{t}" for t in top]
    return did_you_mean(f"--{name}", known, "; see --help")
