"""The page of the docs on the table of faults, from what was seen of its rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "results" / "faults.md"
INTRODUCTION = """# Bad inputs, full disks and interruptions

What becomes of command lines, recipes, corpora, images, checkpoints, embeddings and banks that are wrong or damaged, of
full disks and of places that cannot be written. Each row of the table is one command line with one such input. Its
outcome is

- **right**: the command does what it should with this input, and what it should say or write is there;
- **one line**: one line on stderr says what is wrong, exit code 2, no traceback;
- **fault**: all else: a traceback, two lines, another exit code, no end, changed inputs, leftovers, too much memory.

Of each row it is stated beforehand which outcome is expected and what the line must say; where damage is at a random
place, both outcomes are allowed, but nothing wrong may be used (a checkpoint that is taken has the weights that were
written).
"""
END = """
Each row runs in a process of its own, with limits on time and memory. The commits at which the groups were seen are in
the JSON. An interrupted run is right if it ends, resumed, bitwise as the run that nothing interrupted, and leaves
nothing behind; `tests/integration/test_resume.py` has more of them, see [Stop and resume](../how-to/resume.md).

Rows: `tests/faults`. What each says: [faults.json](../../experiments/results/faults.json), written by
`python tests/faults/table.py [GROUP ...]`, as is this page. `pytest -m slow tests/faults` runs them again.
"""


def make_page(content: Mapping[str, Any]) -> str:
    """The page in Markdown, of the content of the JSON."""
    groups: dict[str, list[dict[str, str]]] = content["groups"]
    lines = ["| Group | Rows | Right | One line | Faults |", "|---|---:|---:|---:|---:|"]
    lines += [_numbers(group, rows) for group, rows in groups.items()]
    lines += [_numbers("**All**", [row for rows in groups.values() for row in rows])]
    lines += ["", "The first line of each group:", "", "| Input | Line |", "|---|---|"]
    for group, rows in groups.items():
        said = next((row for row in rows if row["seen"] == "line"), None)
        if said is not None:
            lines.append(f"| {group}: {_cell(said['what'])} | {_cell(said['line'])} |")
    return "\n".join([INTRODUCTION, *lines, END])


def _numbers(group: str, rows: list[dict[str, str]]) -> str:
    counts = [sum(row["seen"] == seen for row in rows) for seen in ("right", "line", "fault")]
    return f"| {group} | {len(rows)} | {' | '.join(map(str, counts))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("$", "\\$")
