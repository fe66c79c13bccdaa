"""Messages and exit codes of errors: one line with the problem, the value and the remedy."""

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

__all__ = ["describe_error"]

_LOST_PROCESS = re.compile(
    r"Timed out waiting \d+ms for (send|recv)|Connection (closed|reset) by peer|Broken pipe|"
    r"Watchdog caught collective operation timeout|No route to host",
)
"""Messages of gloo and NCCL if another process, its machine or the network is lost."""

_SECTION_CLASSES = {"trainer": Trainer, "checkpoint": RunCheckpoint}
_TOP_LEVEL_OPTIONS = (
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


def describe_error(error: BaseException) -> tuple[int, str | None]:
    """Exit code and message of an error; ``None`` as message for an internal error, whose traceback is shown."""
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return 2, _one_line(str(cause))
        if isinstance(cause, ValueError) and str(cause).startswith(
            "`"
        ):  # an argument check of ppssl
            return 2, _one_line(str(cause))
        if isinstance(cause, RuntimeError) and "killed by signal: Terminated" in str(cause):
            return (
                143,
                "Terminated (a worker first); `ppssl fit ... --resume auto` continues from the last checkpoint.",
            )
        if isinstance(cause, RuntimeError) and _LOST_PROCESS.search(str(cause)):
            reason = _one_line(str(cause))[:200].rstrip(".")
            return 1, (
                f"Lost another process: {reason}. Restart all processes with the same command and "
                "`--resume auto`, which continues from the last checkpoint."
            )
        if is_full(cause):
            return (
                2,
                f"No space left on the disk ({_one_line(str(cause))}): free some space, then use `--resume auto`.",
            )
    if isinstance(error, ArgparseError):
        return 2, _parser_message(str(error))
    if isinstance(error, MisconfigurationException):
        return 2, _one_line(str(error))
    if isinstance(error, ValueError) and "Does not validate" in str(error):
        return 2, _parser_message(str(error))
    return 1, None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _parser_message(text: str) -> str:
    """Innermost message of a jsonargparse error, with the most similar option."""
    option = re.findall(r"Option '([^']+)' is not accepted", text)
    if option:
        class_path = re.findall(r"class_path '([^']+)'", text)[-1]
        hint = did_you_mean(option[-1], _options_of(class_path), "; see --help")
        return f"`{option[-1]}` is not an option of {class_path}{hint}."
    invalid = re.findall(
        r'(?:Parser key|key) "([^"]+)":\s+(Expected [^\n]+?)\. Got value: ([^\n]+)', text
    )
    if invalid:
        name, expected, value = invalid[-1]
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
    informative = [
        line
        for line in lines
        if not line.startswith(("Given value", "Subtypes", "Errors", "Does not validate"))
    ]
    return _one_line((informative or lines)[-1])


def _options_of(class_path: str) -> list[str]:
    """Options of a class: the arguments of its constructor and, if configurable, of its bases' constructors."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    classes = [c for c in cls.__mro__ if issubclass(c, Configurable) and "__init__" in vars(c)]
    return [p for c in classes or [cls] for p in inspect.signature(c).parameters]


def _nearest_option(option: str) -> str:
    """Hint with the option that is most similar to an unknown one."""
    name = option.lstrip("-").partition("=")[0]
    section, _, rest = name.partition(".")
    if section in _SECTION_CLASSES and rest:
        options = [
            f"--{section}.{p}" for p in inspect.signature(_SECTION_CLASSES[section]).parameters
        ]
    else:
        sections = difflib.get_close_matches(section, _TOP_LEVEL_OPTIONS, n=1)
        options = [f"--{s}.{rest}" if rest else f"--{s}" for s in sections]
    return did_you_mean(f"--{name}", options, "; see --help")
