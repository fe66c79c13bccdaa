"""Tables of delimited text (``.csv``, ``.tsv``): the delimiter is recognised from the header line."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from ppssl.utils.errors import UserError

__all__ = ["DELIMITERS", "read_delimited", "text_lines"]

DELIMITERS = (",", ";", "\t", "|")
"""Delimiters that are recognised; spreadsheets write ``;`` where the comma is the decimal mark."""

_NONE = "\x1f"  # unit separator: no text contains it


def text_lines(text: str) -> list[str]:
    """Lines of a text file, which end at a line break alone: U+2028 and other separators of Unicode are content."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def read_delimited(
    path: Path, text: str, wanted: Sequence[str]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Parse a table with a header line, as Python's ``csv`` does, by the delimiter of :func:`find_delimiter`.

    A table of one column has no delimiter, so its texts may contain commas without quotes. A first line ``sep=;``, as
    spreadsheets write it, sets the delimiter.

    Args:
        path: The file, for messages.
        text: Its content.
        wanted: Names that the column may have which the caller reads.

    Returns:
        Column names, and each row's line number and cells by column; a missing cell is absent.

    Raises:
        UserError: A row has more cells than the header, a quotation mark is never closed, or there are two columns of a
            wanted name.
    """
    lines = list(io.StringIO(text, newline=""))  # split as `csv` does: at no separator of Unicode
    declared = re.fullmatch(r"sep=(.)\s*", lines[0], re.IGNORECASE) if lines else None
    skipped = 1 if declared else 0
    lines = lines[skipped:]
    header = next((line for line in lines if line.strip()), "")
    delimiter = declared[1] if declared else find_delimiter(header, wanted)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for cells in reader:
            line = reader.line_num + skipped
            if not any(cell.strip() for cell in cells):
                cells = []
            if not columns:
                columns = [cell.strip() for cell in cells]
                if twice := [name for name in wanted if columns.count(name) > 1]:
                    raise UserError(f"{path} has two columns `{twice[0]}`: rename one of them.")
            elif cells:
                _check_cells(path, line, cells, columns, delimiter)
                rows.append((line, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num + skipped}: {error}: put a text with quotation marks into quotation marks, "
            "and double those in it."
        ) from error
    return columns, rows


def find_delimiter(header: str, wanted: Sequence[str]) -> str:
    """Delimiter of a header line: one by which a wanted column is among its cells, else the one of most cells."""
    cells = {mark: _split(header, mark) for mark in DELIMITERS}
    with_wanted = [mark for mark in DELIMITERS if set(cells[mark]) & set(wanted)]
    best = max(with_wanted or DELIMITERS, key=lambda mark: len(cells[mark]))
    return best if len(cells[best]) > 1 else _NONE


def _split(header: str, delimiter: str) -> list[str]:
    try:
        row = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in row]


def _check_cells(
    path: Path, line: int, cells: list[str], columns: list[str], delimiter: str
) -> None:
    surplus = [cell for cell in cells[len(columns) :] if cell.strip()]
    if surplus:
        raise UserError(
            f"{path}, line {line}, has {len(cells)} cells, and the header line has {len(columns)}, separated by "
            f"{delimiter!r}: put texts that contain {delimiter!r} into quotation marks."
        )
