"""What a check finds: a line that is green, amber or red, with what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "exit_code", "gigabytes", "ok", "problem", "warning"]

Level = Literal["ok", "warning", "problem"]
"""Green, amber and red."""


@dataclass(frozen=True)
class Finding:
    """What a check finds.

    Attributes:
        level: Green (``"ok"``), amber (``"warning"``) or red (``"problem"``).
        what: What was looked at.
        value: What was found.
        advice: What to do; empty if nothing.
    """

    level: Level
    what: str
    value: str
    advice: str = ""


def ok(what: str, value: str, advice: str = "") -> Finding:
    """A green line; its advice is what may be tried."""
    return Finding("ok", what, value, advice)


def warning(what: str, value: str, advice: str) -> Finding:
    """An amber line: the run works, and something is probably not as it is meant."""
    return Finding("warning", what, value, advice)


def problem(what: str, value: str, advice: str) -> Finding:
    """A red line: the run fails, or its results mislead."""
    return Finding("problem", what, value, advice)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 if all is green, 1 with warnings, 2 with problems."""
    codes: dict[Level, int] = {"ok": 0, "warning": 1, "problem": 2}
    return max((codes[finding.level] for finding in findings), default=0)


def gigabytes(size: float) -> str:
    """A size in bytes in readable units, such as ``1.5 GB`` or ``64 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
