"""``--model.contrastive`` on a command line: an objective that is chosen there has its own defaults."""

import re
from collections.abc import Sequence

__all__ = ["with_own_defaults"]

_OPTION = r"--model\.(init_args\.)?contrastive"
_CHOICE = re.compile(rf"{_OPTION}(\.class_path)?(=|$)")
_ANY = re.compile(rf"{_OPTION}[.=]|{_OPTION}$")


def with_own_defaults(args: Sequence[str]) -> list[str]:
    """Add ``--model.contrastive=null`` before the first option of an objective that a command line chooses.

    Otherwise jsonargparse keeps the recipe's values of all arguments that the new objective has too, such as a
    temperature that was right for another one.
    """
    args = list(args)
    if any(map(_CHOICE.match, args)):
        first = next(i for i, arg in enumerate(args) if _ANY.match(arg))
        args.insert(first, "--model.contrastive=null")
    return args
