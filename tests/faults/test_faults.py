"""Bad inputs and interruptions, one by one: each is right or one clear line, and nothing is lost."""

import json
from pathlib import Path

import pytest

from faults.outcome import Row, World, run_alone
from faults.page import PAGE, make_page
from faults.table import FILE, TABLE
from faults.world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("faults") / "world")


CASES = [(group, i) for group, rows in TABLE.items() for i in range(len(rows))]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "number"), CASES, ids=[f"{g}-{n}" for g, n in CASES])
def test_no_fault(group: str, number: int, world: World, tmp_path: Path) -> None:
    row = TABLE[group][number]
    here = tmp_path / "here"
    here.mkdir()
    seen = run_alone(row, world, here)
    assert seen.outcome != "fault", f"{row.what}: {seen.text}"


def test_the_page_shows_this_table() -> None:
    """If a row was changed: ``python tests/faults/table.py GROUP``. Rows that are new may come to the page later."""
    content = json.loads(FILE.read_text())
    written = content["groups"]
    assert set(written) == set(TABLE) == set(content["commits"])
    for group, rows in TABLE.items():
        shown = {entry["what"]: entry["expected"] for entry in written[group]}
        assert shown.items() <= {row.what: row.expected for row in rows}.items(), group
        assert {e["seen"] for e in written[group]} <= {"right", "line"}, group
    assert sum(len(rows) for rows in written.values()) >= 200
    assert PAGE.read_text() == make_page(content)


def test_no_row_is_there_twice() -> None:
    names = [row.what for rows in TABLE.values() for row in rows]
    assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})


@pytest.mark.parametrize(
    ("command", "expected", "says", "outcome"),
    [
        ("fitt", "line", "did you mean fit", "line"),
        ("fitt", "right", "", "fault"),
        ("fitt", "line", "something else", "fault"),
        ("--version", "right", "ppssl", "right"),
        ("--version", "line", "", "fault"),
    ],
)
def test_the_judgement(
    command: str, expected: str, says: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    row = Row("a row", command, expected, says)  # type: ignore[arg-type]
    assert run_alone(row, World(tmp_path / "world", {}), tmp_path / "here").outcome == outcome
