"""Errors in one line: what is wrong and what to do."""

import difflib
import re
from collections.abc import Iterable

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ppssl.errors import UserError

__all__ = ["describe"]


def describe(error: BaseException) -> tuple[int, str | None]:
    """Exit code and message of an error; no message where it is ours and its traceback should be seen."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, ArgumentError | MisconfigurationException):
        return 2, _innermost(str(error))
    if isinstance(error, ValueError) and str(error).startswith("`"):
        return 2, str(error)
    return 1, None


def _innermost(message: str) -> str:
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    return lines[-1] if lines else message


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where a known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


_ = re
