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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "`a` is given twice in the mapping that begins in line 1"),
        ("x:\n  y: {z: 1, z: 2}\n", "`z` is given twice in the mapping that begins in line 2"),
        ("a: 1\n" * 60_000, "more than any recipe"),
    ],
)
def test_what_would_be_lost_silently_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "c.yaml")


def test_merge_keys_and_equal_keys_elsewhere_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "utf-8-sig")
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: ü\n", "latin-1")
    with pytest.raises(UserError, match="not text in UTF-8"):
        read_yaml(tmp_path / "c.yaml")
