"""Results: metrics with units, configuration and provenance, written as JSON or shown as a table."""

import base64
import json
import math
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ppssl.utils.paths import AnyPath, write_whole

__all__ = [
    "Results",
    "finite_or_null",
    "pack_bits",
    "provenance",
    "show_table",
    "unpack_bits",
    "without_local",
    "without_paths",
    "write_json",
]

LIBRARIES = (
    "ppssl",
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "transformers",
    "torchmetrics",
    "scikit-learn",
)


@dataclass
class Results:
    """Results of the evaluation of one model.

    Attributes:
        metrics: Values by name.
        units: Unit of each metric: ``"fraction"`` for [0, 1], else the unit's name.
        protocol: Name and version of the evaluation protocol.
        seed: Seed of the evaluated run.
        config: Configuration of model and data, as plain data.
        intervals: By metric, low and high end of the 95 % bootstrap interval over test images, if there is one.
        per_image: By metric, correct (1) or wrong (0) for each test image that the metric is the mean of, in order of
            its index, packed by :func:`pack_bits`.
        provenance: Commit, library versions and machine (:func:`provenance`).
        schema_version: Version of these fields.
    """

    metrics: dict[str, float]
    units: dict[str, str]
    protocol: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_image: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=lambda: provenance())
    schema_version: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain data."""
        return asdict(self)


def provenance() -> dict[str, Any]:
    """Return git commit (``None`` outside a repository; ``-dirty`` with local changes), versions and machine."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
    }


def _commit() -> str | None:
    """Commit of the repository that this file is in, not of one that merely surrounds the installed package."""
    if not _git("ls-files", "--error-unmatch", Path(__file__).name):
        return None
    # locks nothing of the user's repository, as `git describe --dirty` would
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{_git('rev-parse', 'HEAD')}{'-dirty' if changed else ''}"


def _git(*arguments: str) -> str | None:
    """What git prints in this file's folder; ``None`` if it fails."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Write JSON in one step: after an interruption the file is complete, either the old or the new one.

    A pipe or device, such as ``/dev/stdout``, is written to and not replaced. Numbers that are not finite are written
    as ``null``: JSON has no NaN.

    Raises:
        UserError: The file cannot be written.
    """
    text = json.dumps(finite_or_null(content), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(path, text)


def finite_or_null(value: Any) -> Any:
    """Return plain data for JSON: numbers of NumPy as Python's, and ``None`` for each that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {name: finite_or_null(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pack_bits(hits: np.ndarray) -> str:
    """Encode ``(N,)`` bool as text: ``"N:"`` and the bits in base64."""
    return f"{len(hits)}:{base64.b64encode(np.packbits(hits.astype(bool)).tobytes()).decode()}"


def unpack_bits(text: str) -> np.ndarray:
    """Decode the text of :func:`pack_bits` into ``(N,)`` bool."""
    count, _, bits = text.partition(":")
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=int(count)).astype(bool)


def without_local(config: Mapping[str, Any], local: Sequence[str]) -> dict[str, Any]:
    """Return a configuration with ``None`` for the settings of local overrides such as ``--data.root=...``."""
    names = {override.removeprefix("--").partition("=")[0] for override in local}
    return _with_none(config, lambda name, value: name in names)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with ``None`` for absolute paths, which differ between machines."""
    return _with_none(config, lambda name, value: isinstance(value, str) and _is_absolute(value))


def _is_absolute(text: str) -> bool:
    if text.startswith("~"):
        return True
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def _with_none(config: Mapping[str, Any], drop: Callable[[str, Any], bool]) -> dict[str, Any]:
    """Replace the values that ``drop(dotted name without "init_args", value)`` selects by ``None``."""

    def walk(value: Any, name: str) -> Any:
        if drop(name, value):
            return None
        if isinstance(value, (list, tuple)):
            return [walk(item, name) for item in value]
        if not isinstance(value, Mapping):
            return value
        return {
            key: walk(item, name if key == "init_args" else f"{name}.{key}".lstrip("."))
            for key, item in value.items()
        }

    return walk(config, "")


LONGEST_LINE = 30
"""Longer lines of a cell are wrapped where the terminal has no room, in characters."""
NARROWEST = 20
"""Least width of a column of such lines, in characters."""


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = ""
) -> None:
    """Print a table, with a caption below it that is not wrapped.

    Columns that do not fit the terminal beside the first one follow in a further table below: no value is cut.
    """
    console = Console()
    widths = [
        max(cell_len(line) for row in (columns, *rows) for line in row[i].split("\n"))
        for i in range(len(columns))
    ]

    def fits(part: Sequence[int]) -> bool:
        needed = [widths[i] if widths[i] <= LONGEST_LINE else NARROWEST for i in part]
        return sum(needed) + 3 * len(part) + 1 <= console.width  # a border and two spaces each

    parts = [[0]]
    for i in range(1, len(columns)):
        if len(parts[-1]) > 1 and not fits([*parts[-1], i]):
            parts.append([0])
        parts[-1].append(i)
    for part in parts:
        table = Table(title=escape(title) if part is parts[0] else None)
        for i in part:
            justify: JustifyMethod = "left" if i == 0 else "right"
            whole = fits(part) and widths[i] <= LONGEST_LINE
            table.add_column(Text(columns[i]), justify=justify, no_wrap=whole, overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[i]) for i in part))
        console.print(table)
    if caption:
        console.print(caption, soft_wrap=True, highlight=False, markup=False)
