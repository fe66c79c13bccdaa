"""A section of the page: its content for each run, or why it is left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ppssl.reports.measured import Measured

__all__ = ["LeftOut", "Section", "per_run"]


class LeftOut(Exception):
    """A section has nothing to show for a run; the message is the line that the page shows instead."""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: Name of its template and of its anchor.
        title: Its heading.
        parts: By title, what the template draws; or a line that says why it is left out. A part without a title is
            the only one.
    """

    name: str
    title: str
    parts: dict[str, dict[str, Any] | str]


def per_run(
    name: str,
    title: str,
    runs: Sequence[Measured],
    content: Callable[[Measured], dict[str, Any]],
) -> Section:
    """Make a section with one part for each run."""
    parts: dict[str, dict[str, Any] | str] = {}
    for measured in runs:
        heading = measured.run.name if len(runs) > 1 else ""
        try:
            parts[heading] = content(measured)
        except LeftOut as reason:
            parts[heading] = str(reason)
    return Section(name, title, parts)
