"""The table of faults: all rows by group. As a script it runs them and writes what was seen, and a page of the docs.

    python tests/faults/table.py [GROUP ...]

Groups that are not named keep what was seen before. ``tests/faults/test_faults.py`` runs the same rows.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning.pytorch  # noqa: F401  # its log handler keeps the stderr that it is imported with
import torch

from faults import (
    rows_binary,
    rows_commands,
    rows_images,
    rows_interruptions,
    rows_runs,
    rows_texts,
)
from faults.outcome import Row, World, run_alone
from faults.page import PAGE, make_page
from faults.world import make_world
from ppssl.utils.results import provenance, write_json

FILE = Path(__file__).parents[2] / "experiments" / "results" / "faults.json"
TABLE: dict[str, list[Row]] = {
    group: rows
    for module in (
        rows_commands,
        rows_texts,
        rows_images,
        rows_binary,
        rows_runs,
        rows_interruptions,
    )
    for group, rows in module.ROWS.items()
}
LONGEST = 240


def entry(row: Row, world: World, here: Path) -> dict[str, str]:
    """What was seen of a row, as it is written down: without the folders of this machine."""
    seen = run_alone(row, world, here)
    text = seen.text.replace(str(here), "$here").replace(str(world.root), "$root")
    text = text.encode("utf-8", "replace").decode()
    if seen.outcome == "fault":
        text = f"...{text[-LONGEST:]}"  # the end of a traceback
    shown = text if len(text) <= LONGEST + 3 else f"{text[:LONGEST]}..."
    return {"what": row.what, "expected": row.expected, "seen": seen.outcome, "line": shown}


def main(groups: list[str]) -> None:
    torch.set_num_threads(1)
    content = json.loads(FILE.read_text()) if FILE.is_file() else {"groups": {}, "commits": {}}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            world = make_world(Path(folder, "world"))
        for group in groups or TABLE:
            content["groups"][group] = rows = []
            for i, row in enumerate(TABLE[group]):
                here = Path(folder, f"{group}-{i}".replace(" ", "-"))
                here.mkdir()
                rows.append(entry(row, world, here))
                if rows[-1]["seen"] == "fault":
                    print(
                        group, "|", row.what, "|", rows[-1]["line"], file=sys.__stdout__, flush=True
                    )
            content["commits"][group] = provenance()["commit"]
            write_json(FILE, content | {"provenance": provenance()})
            PAGE.write_text(make_page(json.loads(FILE.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
