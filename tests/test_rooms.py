"""Imports run in one direction: each room knows only the rooms before it (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ppssl"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ROOMS = (
    "utils",
    "functional",
    "metrics",
    "checkpointing",
    "encoder",
    "data",
    "callbacks",
    "text",
    "losses",
    "inference",
    "classify",
    "module",
    "evaluation",
    "studies",
    "reports",
    "diagnosis",
    "cli",
)
NOT_FOR_LOSSES = {"data", "cli"}


def modules(source: Path) -> dict[str, Path]:
    """Every module of a package, by its dotted name."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def imports(path: Path, known: dict[str, Path], *, types: bool = True) -> set[str]:
    """The modules of the package that a file imports, at its top or inside a function.

    Args:
        path: The file.
        known: All modules of the package.
        types: Whether imports for type checkers only count too.
    """
    found: set[str] = set()
    for node in _nodes(ast.parse(path.read_text()), types):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            names += [module] if module != "ppssl" else []
        else:
            continue
        found |= {name for name in names if name in known}
        if any(name.rpartition(".")[0] == "ppssl" and name not in known for name in names):
            found.add("ppssl")  # a public name, which may be any room's
    return found


def _nodes(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _nodes(child, types)


def room_of(module: str) -> str | None:
    """The room of a module; ``None`` for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def upward_imports(source: Path) -> list[str]:
    """What imports a room after its own, or the package's public names."""
    known = modules(source)
    wrong = []
    for module, path in known.items():
        room = room_of(module)
        if room in (None, "__main__", "cli"):
            continue
        for other in imports(path, known):
            target = room_of(other)
            if target is None or ROOMS.index(target) > ROOMS.index(room):
                wrong.append(f"{module} imports {other}")
    return wrong


def circle(source: Path) -> list[str]:
    """Modules that import each other in a ring while the program runs; empty where there is none."""
    known = modules(source)
    graph = {name: imports(path, known, types=False) - {name} for name, path in known.items()}
    for name, needed in graph.items():  # a package's own __init__ is no dependence of its modules
        graph[name] = {other for other in needed if not name.startswith(f"{other}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_is_named() -> None:
    rooms = {room_of(module) for module in modules(SOURCE)} - {None, "__main__"}
    assert rooms == set(ROOMS)
    entries = [p for p in SOURCE.iterdir() if p.name != "__pycache__"]
    assert len(entries) <= 20


def test_no_room_knows_a_later_one() -> None:
    assert upward_imports(SOURCE) == []


@pytest.mark.parametrize("source", [SOURCE, EXPERIMENTS], ids=lambda source: source.name)
def test_no_circle(source: Path) -> None:
    assert circle(source) == []


def test_losses_know_neither_data_nor_command_line() -> None:
    known = modules(SOURCE)
    wrong = {
        module: rooms
        for module, path in known.items()
        if room_of(module) == "losses"
        and (
            rooms := {room_of(other) for other in imports(path, known, types=False)}
            & NOT_FOR_LOSSES
        )
    }
    assert wrong == {}


def test_ais_and_iadm_do_not_know_each_other() -> None:
    known = modules(SOURCE)
    for own, other in (("ais", "iadm"), ("iadm", "ais")):
        for module, path in known.items():
            if module.startswith(f"ppssl.losses.{own}"):
                found = imports(path, known)
                assert not any(name.startswith(f"ppssl.losses.{other}") for name in found), module


@pytest.mark.parametrize(
    "line",
    [
        "from ppssl.cli import main",
        "def f():\n    from ppssl.cli.main import main",
        "def f():\n    import ppssl.cli.main",
        "from ppssl import cli",
        "def f():\n    from ppssl import PPSSL",
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, line: str) -> None:
    package = _package(tmp_path, {"cli/__init__.py": "", "cli/main.py": "", "utils/a.py": line})
    assert len(upward_imports(package)) > 0


@pytest.mark.parametrize("inside", [False, True])
def test_a_circle_is_found(tmp_path: Path, inside: bool) -> None:
    back = "from ppssl.utils.a import x"
    back = f"def f():\n    {back}" if inside else back
    package = _package(tmp_path, {"utils/a.py": "from ppssl.utils import b", "utils/b.py": back})
    assert set(circle(package)) == {"ppssl.utils.a", "ppssl.utils.b"}


def _package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in ({"__init__.py": "", "utils/__init__.py": ""} | files).items():
        path = folder / "ppssl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "ppssl"
