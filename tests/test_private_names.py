"""Private names of Lightning and torch are used in one file only, utils/lightning_internals.py."""

import ast
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

import ppssl

SOURCE = Path(__file__).parents[1] / "src" / "ppssl"
INTERNALS = SOURCE / "utils" / "lightning_internals.py"

UNDOCUMENTED = {
    "fit_loop",
    "epoch_loop",
    "val_loop",
    "epoch_progress",
    "batch_progress",
    "should_update_logs",
    "cumulated_batch_size",
}
"""Names of Lightning without an underscore that are not in its documentation."""

ALLOWED = {
    "_BatchNorm": "the base of all batch norms, with no public name",
    "_asdict": "documented: a method of named tuples",
    "_replace": "likewise",
    "_foreach_lerp_": "torch's optimizers are made of it; one kernel for all parameters, with no public name",
    "_modules": "of a shallow copy: add_module would change the original, too",
    "_image_files": "torchvision's data sets have no public list of files and labels",
    "_images": "likewise",
    "_labels": "likewise",
}
"""Private names of other packages that are allowed everywhere, and why."""


BY_NAME = ("getattr", "setattr", "hasattr", "delattr")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name.strip("_") != ""


def defined_names(tree: ast.AST) -> set[str]:
    """Private names that a piece of code defines: functions, classes, variables, attributes of ``self`` or ``cls``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _of_self(node):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def _of_self(node: ast.Attribute) -> bool:
    """Whether it is an attribute of ``self``, ``cls`` or ``super()``."""
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")


def foreign_names(tree: ast.AST) -> Iterator[str]:
    """Names that a file must not use: private ones that it does not define, and undocumented ones."""
    allowed = defined_names(tree) | ALLOWED.keys()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not _of_self(node):
            names = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME:
            names = [ast.unparse(node.args[1]).strip("'")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        for name in names:
            if name in UNDOCUMENTED or (is_private(name) and name not in allowed):
                yield f"{name} in line {node.lineno}"  # type: ignore[attr-defined]


def inherited_names(cls: type) -> Iterator[str]:
    """Private names of other packages' base classes that a class uses on itself or overrides."""
    package = cls.__module__.partition(".")[0]
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == package]
    theirs = [base for base in cls.__mro__ if base not in ours]
    defined = set().union(*(_names_of(base) for base in ours))
    attributes = [n for n in ast.walk(_tree(cls)) if isinstance(n, ast.Attribute) and _of_self(n)]
    used = {node.attr for node in attributes if is_private(node.attr)} - defined
    overridden = _names_of(cls) & set().union(*(_names_of(base) for base in theirs))
    yield from (f"{cls.__qualname__} uses {name}" for name in sorted(used))
    yield from (f"{cls.__qualname__} overrides {name}" for name in sorted(overridden))


@functools.cache
def _tree(cls: type) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # made by a function, or not written in Python
        return ast.Module([], [])


@functools.cache
def _names_of(cls: type) -> set[str]:
    return defined_names(_tree(cls))


def our_classes() -> Iterator[type]:
    """Every class of the package."""
    for module in pkgutil.walk_packages(ppssl.__path__, "ppssl."):
        if module.name.rpartition(".")[2] != "__main__":
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and value.__module__ == module.name:
                    yield value


def test_no_file_but_one_uses_private_names_of_others() -> None:
    names = {
        path: list(foreign_names(ast.parse(path.read_text()))) for path in SOURCE.rglob("*.py")
    }
    assert {path for path, used in names.items() if used} == {INTERNALS}, names


def test_no_class_but_one_uses_or_overrides_private_names_of_its_bases() -> None:
    checked = [cls for cls in our_classes() if inspect.getfile(cls) != str(INTERNALS)]
    assert len(checked) > 50
    assert [name for cls in checked for name in inherited_names(cls)] == []


@pytest.mark.parametrize(
    "line",
    [
        "trainer._logger_connector.metrics",
        "trainer.fit_loop.max_epochs",
        "getattr(strategy, '_layer_sync', None)",
        "strategy._layer_sync = None",
        "f()._x",
        "from lightning.pytorch.loops import _FitLoop",
        "from torch._dynamo import disable",
        "import torch._dynamo",
    ],
)
def test_a_private_name_is_seen(line: str) -> None:
    assert len(list(foreign_names(ast.parse(line)))) == 1


@pytest.mark.parametrize("line", ["self._x", "_x = 0\na._x", "a.__class__", "a._asdict()", "_ = 0"])
def test_what_is_no_private_name_of_others(line: str) -> None:
    assert list(foreign_names(ast.parse(line))) == []


class Uses(ModelCheckpoint):
    def saved(self) -> int:
        self._saved = self._last_global_step_saved
        return self._saved


class Overrides(ModelCheckpoint):
    def _save_checkpoint(self, *args: Any) -> None:
        return super()._save_checkpoint(*args)


class OverridesAttribute(ModelCheckpoint):
    def __init__(self) -> None:
        super().__init__()
        self._last_global_step_saved = 1


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (Uses, ["Uses uses _last_global_step_saved"]),
        (Overrides, ["Overrides overrides _save_checkpoint"]),
        (OverridesAttribute, ["OverridesAttribute overrides _last_global_step_saved"]),
    ],
)
def test_an_inherited_private_name_is_seen(cls: type, names: list[str]) -> None:
    assert list(inherited_names(cls)) == names
