"""The error that is the user's to mend: one line, what is wrong, the value, what to do."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean"]


class UserError(Exception):
    """Bad input. The command line prints its message alone and exits with code 2."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`` (did you mean X?)``, X the known name nearest to a mistyped one; ``otherwise`` where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else otherwise
