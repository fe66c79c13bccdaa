"""Imports run in one direction: who may know whom (CONTRIBUTING, "Where things live")."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ppssl"
ORDER = [
    "errors",
    "device",
    "randomness",
    "optimization",
    "config",
    "finite",
    "functional",
    "plugin",
    "checkpoint",
    "checkpoint_io",
    "log_io",
    "encoder",
    "training",
    "contrastive",
    "parallel",
    "results",
    "viz",
    "data",
    "downstream",
    "callbacks",
    "ais",
    "iadm",
    "module",
    "recipes",
    "demo",
    "measure",
    "commands",
    "cli",
]


def _imports(path: Path) -> set[str]:
    """The rooms that a file imports when it is imported itself: not those inside functions or for types only."""
    rooms: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ppssl."):
            rooms.add((node.module or "").split(".")[1])
    return rooms


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_run_in_one_direction(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    others = _imports(path) - {room}
    assert all(ORDER.index(other) < ORDER.index(room) for other in others), others
    assert not (room == "iadm" and "ais" in others)
