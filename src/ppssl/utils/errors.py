"""User errors, and hints to similar names in their messages."""

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ArgumentError", "UserError", "did_you_mean", "similar_path"]


class UserError(Exception):
    """Invalid input by the user: the command line prints only the message and exits with code 2.

    The message is one line: what is wrong, the value, what to do.
    """


class ArgumentError(ValueError):
    """An argument outside of what a function or class takes; the command line reports it like a :class:`UserError`.

    Other errors of this type, such as those of libraries, are faults of the program: they keep their traceback.
    """


def did_you_mean(name: str, valid_names: Iterable[str], otherwise: str = "") -> str:
    """Return `` (did you mean X?)``, X being the valid name most similar to ``name``; else ``otherwise``."""
    similar = difflib.get_close_matches(name, list(valid_names), n=1)
    return f" (did you mean {similar[0]}?)" if similar else otherwise


def similar_path(path: Path, pattern: str = "*") -> str:
    """Return :func:`did_you_mean` for a missing path, among the entries of its folder; ``"*/"``: folders only."""
    return did_you_mean(path.name, [p.name for p in path.parent.glob(pattern)])
