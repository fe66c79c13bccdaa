"""Corpora as spreadsheets write them: the delimiter is recognised, and no text is cut without a word."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppssl.text.corpus import TextCorpus
from ppssl.text.delimited import DELIMITERS, read_delimited
from ppssl.utils.errors import UserError

TEXT = "a red bill, long and thin"


def _load(folder: Path, content: str, column: str | None = None, name: str = "c.csv") -> list[str]:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return TextCorpus.load(path, column).titles


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
@pytest.mark.parametrize("column", [None, "description"])
def test_other_delimiters_are_recognised(
    tmp_path: Path, delimiter: str, name: str, column: str | None
) -> None:
    rows = [["class", "description"], ["wren", TEXT], ["finch", "a forked tail, deeply"]]
    content = "\n".join(delimiter.join(row) for row in rows)
    assert _load(tmp_path, content, column, name) == [TEXT, "a forked tail, deeply"]


def test_one_column_may_contain_commas(tmp_path: Path) -> None:
    assert _load(tmp_path, f"description\n{TEXT}\n\nblue; green, too\n") == [
        TEXT,
        "blue; green, too",
    ]
    assert _load(tmp_path, f'note\n"{TEXT}"\nplain\n') == [TEXT, "plain"]


def test_the_wanted_column_decides(tmp_path: Path) -> None:
    """By the comma the header has three cells, and none of them is a description."""
    header = "family, genus, species;text"
    assert _load(tmp_path, f"{header}\na, b, c;one\nd, e, f;two\n") == ["one", "two"]
    assert _load(tmp_path, "a;b,note\n1;2,one\n3;4,two\n", "note") == ["one", "two"]


def test_a_declared_delimiter(tmp_path: Path) -> None:
    assert _load(tmp_path, "sep=;\ntext;n\na, b;1\nc;2\n") == ["a, b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"class,description\nwren,{TEXT}\n", r"c.csv, line 2, has 3 cells, .* header line has 2"),
        ("sep=;\nclass;text\na;b\nc;d;e\n", r"line 4, has 3 cells, .* separated by ';'"),
        ('text,n\n"never closed,1\nb,2\n', r"c.csv, line 3: unexpected end of data: put a text"),
        ('text,n\n"Red" wren,1\nb,2\n', r"line 2: .* expected after .*: put a text with quotation"),
        (f"text\n{'a' * 200_000}\nb\n", r"line 2: field larger than field limit"),
    ],
)
def test_what_would_be_cut_is_refused_with_its_line(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _load(tmp_path, content)


def test_surplus_delimiters_without_text_are_fine(tmp_path: Path) -> None:
    assert _load(tmp_path, "n;text\n1;one;;\n2;two\n;;;\n") == ["one", "two"]


CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    str.strip
)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6),
    delimiter=st.sampled_from(DELIMITERS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    swap=st.booleans(),
)
def test_every_table_that_csv_writes_is_read_whole(
    rows: list[tuple[str, str]], delimiter: str, quoting: int, end: str, swap: bool
) -> None:
    header = ("description", "class") if swap else ("class", "description")
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([header, *rows])
    columns, parsed = read_delimited(Path("c.csv"), out.getvalue(), ["description"])
    assert columns == list(header)
    strip = lambda cells: [cell.strip() for cell in cells]  # noqa: E731
    assert [strip(cells.values()) for _, cells in parsed] == [strip(row) for row in rows]


def test_separators_of_unicode_end_no_row(tmp_path: Path) -> None:
    assert _load(tmp_path, "text;n\na\u2028b;1\nc\u0085d;2\n") == ["a b", "c d"]


def test_two_columns_of_the_wanted_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two columns `text`"):
        _load(tmp_path, "text,text\na,b\nc,d\n")
    assert _load(tmp_path, "id,id,text\n1,2,a\n3,4,b\n") == ["a", "b"]
