"""Results are JSON first: metrics with units, and all that is needed to know where they came from."""

import base64
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

__all__ = [
    "Results",
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
    """What was measured on one model.

    Attributes:
        metrics: Values by name.
        units: Unit of each metric: ``"fraction"`` for [0, 1], or what is counted.
        protocol: Name and version of how it was measured.
        seed: The seed of the measured run.
        config: What was measured: model and data, as plain data.
        intervals: Low and high end of the 95 % bootstrap interval over test images, by metric, where there is one.
        per_image: Right (1) or wrong (0) for each test image in order of its index, packed by :func:`pack_bits`.
        provenance: See :func:`provenance`.
        schema_version: Of this layout.
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
        """As plain data."""
        return asdict(self)


def provenance() -> dict[str, Any]:
    """Git commit (``None`` outside of a checkout; ``-dirty`` with uncommitted changes), versions, machine."""
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
    here = Path(__file__).parent
    command = [
        "git",
        "-C",
        str(here),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() or None


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that the file is either the old one or the new one, whenever it is interrupted."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    part.replace(path)


def pack_bits(hits: np.ndarray) -> str:
    """``(N,)`` bool as text: ``"N:"`` and the bits in base64."""
    return f"{len(hits)}:{base64.b64encode(np.packbits(hits.astype(bool)).tobytes()).decode()}"


def unpack_bits(text: str) -> np.ndarray:
    """The ``(N,)`` bool array that :func:`pack_bits` packed."""
    count, _, bits = text.partition(":")
    return np.unpackbits(
        np.frombuffer(base64.b64decode(bits), dtype=np.uint8), count=int(count)
    ).astype(bool)


def without_local(config: Mapping[str, Any], local: Sequence[str]) -> dict[str, Any]:
    """A configuration, where what this machine alone has set (``--data.root=...``) is left open: ``None``."""
    dropped = {override.removeprefix("--").partition("=")[0] for override in local}
    return _left_open(config, lambda name, value: name in dropped)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, where absolute paths, which are some machine's own, are left open: ``None``."""
    return _left_open(config, lambda name, value: isinstance(value, str) and _is_absolute(value))


def _is_absolute(text: str) -> bool:
    kinds = (PurePosixPath, PureWindowsPath)
    return text.startswith("~") or any(kind(text).is_absolute() for kind in kinds)


def _left_open(config: Mapping[str, Any], drop: Callable[[str, Any], bool]) -> dict[str, Any]:
    """The configuration with ``None`` for what is to be dropped, by dotted name (without ``init_args``) and value."""

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


def show_table(title: str, columns: list[str], rows: list[list[str]], *, caption: str = "") -> None:
    """Print a table; the caption, below it, is not wrapped."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    if caption:
        console.print(caption, soft_wrap=True, highlight=False, markup=False)
