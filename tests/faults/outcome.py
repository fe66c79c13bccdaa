"""Run one row of the table of faults and say what came of it."""

import contextlib
import hashlib
import io
import logging
import multiprocessing
import os
import re
import resource
import shlex
import signal
import string
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ppssl.cli.main import main

Expected = Literal["right", "line", "either"]
LONGEST_LINE, LONGEST_RUN, MEMORY = 700, 120, 8 * 2**30
LEFTOVERS = re.compile(r"\.part$|\.part\.|/\.ppssl-")


class World(NamedTuple):
    """Good files, which no row may change.

    Attributes:
        root: The folder that they are in.
        names: What a command line may call them by, ``$last`` for ``names["last"]``.
    """

    root: Path
    names: dict[str, str]

    def __getitem__(self, name: str) -> Path:
        return Path(self.names[name])


@dataclass(frozen=True)
class Row:
    """A bad input or an interruption.

    Attributes:
        what: What is wrong, in words.
        command: The command line; ``$here`` is the row's own folder, other names are those of :class:`World`.
        expected: ``"right"``: it does what it should; ``"line"``: one line says what is wrong; ``"either"``: one of
            them, of damage at a random place, or where both are sensible.
        says: What must be in the line, or in the output where it is right, as a regular expression.
        make: Makes the input in the row's folder first.
        check: Looks at what is left afterwards, if it is right.
        code: Exit code of the line.
        largest_file: Bytes that a file may have, as a disk that is full for larger ones.
    """

    what: str
    command: str
    expected: Expected = "line"
    says: str = ""
    make: Callable[[Path, World], Any] | None = None
    check: Callable[[Path, World], Any] | None = None
    code: int = 2
    largest_file: int | None = None


class Seen(NamedTuple):
    """What came of a row: ``"right"``, ``"line"`` or ``"fault"``, and the line or what the fault was."""

    outcome: Literal["right", "line", "fault"]
    text: str


def run_alone(row: Row, world: World, here: Path) -> Seen:
    """Run a row in a process of its own, which leaves nothing behind for other rows and may die."""
    forked = multiprocessing.get_context("fork")
    receiver, sender = forked.Pipe(duplex=False)
    process = forked.Process(target=lambda: sender.send(run(row, world, here)))
    process.start()
    sender.close()
    seen = None
    if receiver.poll(2 * LONGEST_RUN):
        with contextlib.suppress(EOFError):
            seen = receiver.recv()
    process.join(10)
    code = process.exitcode
    process.kill()
    process.join()
    if code != 0:
        what = "hangs" if code is None else f"died, exit code {code}"
        return Seen("fault", f"the process {what}, {seen}")
    return seen or Seen("fault", "the process said nothing")


class Hang(BaseException):
    """The command did not come to an end."""


def run(row: Row, world: World, here: Path) -> Seen:
    """Run a row in its own, empty folder."""
    if row.make is not None:
        row.make(here, world)
    before = _contents(world.root)
    with limited(resource.RLIMIT_FSIZE, row.largest_file):
        code, out, err, error = _call(arguments(row.command, world, here), here)
    seen = _judge(row, code, out, err, error)
    if seen.outcome == "fault":
        return seen
    if _contents(world.root) != before:
        return Seen("fault", "the command changed its inputs")
    if left := [str(path) for path in here.rglob("*") if LEFTOVERS.search(str(path))]:
        return Seen("fault", f"left behind: {left}")
    if seen.outcome == "right" and row.check is not None:
        try:
            row.check(here, world)
        except Exception as wrong:
            return Seen("fault", f"afterwards: {type(wrong).__name__}: {str(wrong)[:500]}")
    return seen


def _judge(row: Row, code: Any, out: str, err: str, error: str) -> Seen:
    if error or "Traceback" in err:
        return Seen("fault", error or err[-3000:])
    lines = [line for line in err.splitlines() if line.startswith("ppssl: ")]
    if code == 0:
        seen = Seen("right", "") if not lines else Seen("fault", f"exit code 0, but: {lines}")
        text = out + err
    elif code == row.code and len(lines) == 1 and len(lines[0]) <= LONGEST_LINE:
        seen, text = Seen("line", lines[0].removeprefix("ppssl: ")), lines[0]
        if re.search(r"<class|object at 0x|usage:", text + err):
            seen = Seen("fault", f"not clear: {text}")
    else:
        return Seen("fault", f"exit code {code}, lines: {lines}, {err[-1000:]}")
    if row.expected not in ("either", seen.outcome):
        return Seen("fault", f"expected {row.expected}, was {seen.outcome}: {(lines or [out])[0]}")
    if row.says and row.expected == seen.outcome and not re.search(row.says, text):
        return Seen("fault", f"it does not say {row.says!r}: {text[-1500:]}")
    return seen


def arguments(command: str, world: World, here: Path) -> list[str]:
    names = dict(world.names) | {"here": str(here)}
    text = command
    while "$" in text.replace("$$", ""):  # names stand for others
        text = string.Template(text).substitute(names)
    return shlex.split(text)


def _call(arguments: list[str], here: Path) -> tuple[Any, str, str, str]:
    """Exit code, stdout, stderr with warnings and log, and the traceback of an error, if there was one."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    error = ""
    with (
        contextlib.chdir(here),
        _log_to(err),
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _time_limit(),
        _memory_limit(),
    ):
        warnings.simplefilter("always")
        try:
            code = main(arguments)
        except SystemExit as end:
            code = 0 if end.code is None else end.code
        except (Exception, Hang):
            error = traceback.format_exc()
    said = "".join(f"{warning.message}\n" for warning in caught)
    return code, out.getvalue(), err.getvalue() + said, error


@contextlib.contextmanager
def _log_to(err: io.StringIO) -> Iterator[None]:
    """The handlers that there are write to ``err``; an own file of stderr might be beyond the row's limit."""
    handler = logging.StreamHandler(err)
    loggers = [logging.getLogger(name) for name in ("", "lightning.pytorch", "lightning.fabric")]
    streams = {
        other: other.setStream(err)
        for logger in loggers
        for other in logger.handlers
        if type(other) is logging.StreamHandler
    }
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        for other, stream in streams.items():
            other.setStream(stream)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_RUN)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _memory_limit() -> contextlib.AbstractContextManager[None]:
    """A few GB more than now: who asks for more gets an error, and is not killed together with the tests."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return limited(resource.RLIMIT_AS, now + MEMORY)


@contextlib.contextmanager
def limited(kind: int, limit: int | None) -> Iterator[None]:
    """A limit of the system for this process, for a while."""
    before = resource.getrlimit(kind)
    if limit is not None:
        resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def _contents(root: Path) -> dict[str, str]:
    files = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    return {str(path): hashlib.sha1(path.read_bytes()).hexdigest() for path in files}
