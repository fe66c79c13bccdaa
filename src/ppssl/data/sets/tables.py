"""Metadata in text files, read strictly: each fault is an error that names file and line, and nothing is guessed."""

import codecs
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ppssl.utils.errors import UserError

__all__ = ["Row", "fail", "read_numbered", "read_rows"]

_BLANKS = re.compile(r"[ \t]+")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: its fields, and where it stands."""

    file: Path
    line: int
    fields: tuple[str, ...]

    def fail(self, what: str) -> NoReturn:
        """Raise the error that something is wrong with this line."""
        raise UserError(f"{self.file}, line {self.line}: {what}.")

    def integer(self, column: int, low: int, high: int | None = None) -> int:
        """A field as an integer, from ``low`` to ``high``."""
        text = self.fields[column]
        if not (text.isascii() and text.isdigit() and len(text) < 19):  # int() takes "1_0" as well
            self.fail(f"{text!r} is no whole number")
        value = int(text)
        if value < low or (high is not None and value > high):
            bounds = f"from {low} to {high}" if high is not None else f"at least {low}"
            self.fail(f"{value} is out of range: it must be {bounds}")
        return value

    def numbers(self, first: int, last: int | None = None) -> list[float]:
        """Fields ``first`` to ``last`` as finite numbers."""
        texts = self.fields[first:last]
        try:
            values = [float(text) for text in texts]
        except ValueError:
            self.fail(f"{' '.join(texts)!r} are no numbers")
        if not all(math.isfinite(value) for value in values):
            self.fail(f"{' '.join(texts)!r} are no finite numbers")
        return values


def fail(file: Path, what: str) -> NoReturn:
    """Raise the error that something is wrong with a whole file."""
    raise UserError(f"{file}: {what}.")


def read_rows(file: Path, columns: int, *, rest: bool = False) -> list[Row]:
    """The lines of a table whose fields are separated by blanks; empty lines are left out.

    UTF-8 with or without its mark, and any kind of line end.

    Args:
        file: The file.
        columns: How many fields each line has.
        rest: The last field is all that is left of the line, blanks included.

    Raises:
        UserError: It cannot be read, is empty or not UTF-8, or a line has another number of fields.
    """
    rows = []
    for number, text in enumerate(_lines(file), start=1):
        text = text.strip(" \t")
        if not text:
            continue
        fields = _fields(text, columns) if rest else tuple(_BLANKS.split(text))
        row = Row(file, number, fields)
        if len(fields) != columns:
            row.fail(f"{columns} fields are expected and there are {len(fields)}: {text[:60]!r}")
        rows.append(row)
    if not rows:
        fail(file, "there is nothing in it")
    return rows


def read_numbered(file: Path, columns: int, *, rest: bool = False) -> list[Row]:
    """The rows of a table whose first field numbers them from 1 on, in that order, whichever order the lines have.

    Raises:
        UserError: As :func:`read_rows`; and a number is missing, or there twice.
    """
    by_number: dict[int, Row] = {}
    for row in read_rows(file, columns, rest=rest):
        number = row.integer(0, low=1)
        if number in by_number:
            row.fail(f"number {number} is in line {by_number[number].line} already")
        by_number[number] = row
    rows = [by_number[number] for number in sorted(by_number)]
    for expected, row in enumerate(rows, start=1):
        if int(row.fields[0]) != expected:
            row.fail(f"number {expected} is missing: {row.fields[0]} follows {expected - 1}")
    return rows


def _fields(text: str, columns: int) -> tuple[str, ...]:
    """The last field takes what is left; to ``re.split`` no limit is 0 too."""
    return (text,) if columns == 1 else tuple(_BLANKS.split(text, columns - 1))


def _lines(file: Path) -> list[str]:
    try:
        raw = file.read_bytes()
    except OSError as error:
        fail(file, f"cannot be read: {error.strerror}")
    if raw.startswith(_UTF16):
        fail(file, "it is written in UTF-16; save it as UTF-8")
    lines = re.split(rb"\r\n|\n|\r", raw.removeprefix(codecs.BOM_UTF8))
    decoded = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            fail(file, f"line {number} is not UTF-8 ({error.reason} at byte {error.start})")
        if "\0" in text:
            fail(file, f"line {number} holds a NUL character: it is no text, or damaged")
        decoded.append(text)
    return decoded
