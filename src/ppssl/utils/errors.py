"""The error that is the user's to mend: one line, what is wrong, the value, what to do."""

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["UserError", "did_you_mean", "similar_path"]


class UserError(Exception):
    """Bad input. The command line prints its message alone and exits with code 2."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`` (did you mean X?)``, X the known name nearest to a mistyped one; ``otherwise`` where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else otherwise


def similar_path(path: Path, pattern: str = "*") -> str:
    """:func:`did_you_mean` for a path that is not there, of what lies beside it; ``"*/"``: folders only."""
    return did_you_mean(path.name, [p.name for p in path.parent.glob(pattern)])
