"""Strict reading of text tables: every malformed line is a user error with file and line."""

import codecs
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ppssl.utils.errors import UserError

__all__ = ["Row", "raise_file_error", "read_numbered", "read_rows"]

_BLANKS = re.compile(r"[ \t]+")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """Line of a table: its fields, its file and its line number."""

    file: Path
    line: int
    fields: tuple[str, ...]

    def raise_error(self, problem: str) -> NoReturn:
        """Raise a user error about this line."""
        raise UserError(f"{self.file}, line {self.line}: {problem}.")

    def integer(self, column: int, low: int, high: int | None = None) -> int:
        """Convert a field to an integer from ``low`` to ``high``."""
        text = self.fields[column]
        if not (text.isascii() and text.isdigit() and len(text) < 19):  # int() takes "1_0" as well
            self.raise_error(f"{text!r} is not a whole number")
        value = int(text)
        if value < low or (high is not None and value > high):
            bounds = f"from {low} to {high}" if high is not None else f"at least {low}"
            self.raise_error(f"{value} is out of range: it must be {bounds}")
        return value

    def numbers(self, first: int, last: int | None = None) -> list[float]:
        """Convert the fields from ``first`` to before ``last`` to finite numbers."""
        texts = self.fields[first:last]
        try:
            values = [float(text) for text in texts]
        except ValueError:
            self.raise_error(f"{' '.join(texts)!r} are not numbers")
        if not all(math.isfinite(value) for value in values):
            self.raise_error(f"{' '.join(texts)!r} are not finite numbers")
        return values


def raise_file_error(file: Path, problem: str) -> NoReturn:
    """Raise a user error about a file."""
    raise UserError(f"{file}: {problem}.")


def read_rows(file: Path, columns: int, *, rest: bool = False) -> list[Row]:
    """Read the lines of a table whose fields are separated by spaces or tabs; empty lines are skipped.

    The file is UTF-8, with or without byte order mark, with any line ending.

    Args:
        file: Text file.
        columns: Number of fields per line.
        rest: Whether the last field is the rest of the line, including spaces.

    Raises:
        UserError: The file cannot be read, is empty or is not UTF-8, or a line has another number of fields.
    """
    rows = []
    for number, text in enumerate(_lines(file), start=1):
        text = text.strip(" \t")
        if not text:
            continue
        fields = _fields(text, columns) if rest else tuple(_BLANKS.split(text))
        row = Row(file, number, fields)
        if len(fields) != columns:
            row.raise_error(f"expected {columns} fields, got {len(fields)}: {text[:60]!r}")
        rows.append(row)
    if not rows:
        raise_file_error(file, "the file is empty")
    return rows


def read_numbered(file: Path, columns: int, *, rest: bool = False) -> list[Row]:
    """Read a table whose first field numbers the rows from 1, in any order; rows are returned in numeric order.

    Raises:
        UserError: As :func:`read_rows`; also if a number is missing or occurs twice.
    """
    by_number: dict[int, Row] = {}
    for row in read_rows(file, columns, rest=rest):
        number = row.integer(0, low=1)
        if number in by_number:
            row.raise_error(f"number {number} is already in line {by_number[number].line}")
        by_number[number] = row
    rows = [by_number[number] for number in sorted(by_number)]
    for expected, row in enumerate(rows, start=1):
        if int(row.fields[0]) != expected:
            row.raise_error(f"number {expected} is missing: {row.fields[0]} follows {expected - 1}")
    return rows


def _fields(text: str, columns: int) -> tuple[str, ...]:
    """Split a line into ``columns`` fields; the last one is the rest of the line."""
    if columns == 1:  # to `re.split` a limit of 0 means no limit
        return (text,)
    return tuple(_BLANKS.split(text, columns - 1))


def _lines(file: Path) -> list[str]:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise_file_error(file, f"cannot be read: {error.strerror}")
    if raw.startswith(_UTF16):
        raise_file_error(file, "the encoding is UTF-16; save the file as UTF-8")
    lines = re.split(rb"\r\n|\n|\r", raw.removeprefix(codecs.BOM_UTF8))
    decoded = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise_file_error(
                file, f"line {number} is not UTF-8 ({error.reason} at byte {error.start})"
            )
        if "\0" in text:
            raise_file_error(
                file, f"line {number} contains a NUL character: the file is not text, or is damaged"
            )
        decoded.append(text)
    return decoded
