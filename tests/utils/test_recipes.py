"""Recipes are found in the package or as files, and read; what is wrong is one line."""

from pathlib import Path

import pytest

from ppssl import UserError
from ppssl.utils.recipes import read_yaml, recipe_path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_names_resolve_inside_the_package() -> None:
    path = Path(recipe_path("ppssl:folder/pretrain"))
    assert path.read_text() == (EXPERIMENTS / "folder" / "pretrain.yaml").read_text()


def test_other_names_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("data: {a: [1, 2]}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_path("~/mine.yaml") == str(tmp_path / "mine.yaml")
    assert read_yaml(tmp_path / "mine.yaml") == {"data": {"a": [1, 2]}}


def test_errors_suggest_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ppssl:folder/pretran.*did you mean ppssl:folder/pre"):
        recipe_path("ppssl:folder/pretran")
    (tmp_path / "mine.yaml").write_text("data: [")
    with pytest.raises(UserError, match=r"No such config: .*mime.yaml.*mine.yaml"):
        recipe_path(tmp_path / "mime.yaml")
    with pytest.raises(UserError, match=r"mine\.yaml is not valid YAML"):
        read_yaml(tmp_path / "mine.yaml")
