"""Paths of users: tried without a trace, and errors that name them."""

import os
from pathlib import Path

import pytest

from ppssl.utils.errors import UserError
from ppssl.utils.paths import (
    expand,
    only_writer,
    writable_figure,
    writable_file,
    writable_folder,
    writing,
)
from ppssl.utils.results import write_json


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_home_is_expanded_and_other_paths_are_not(home: Path) -> None:
    assert expand("~/x") == expand(Path("~/x")) == home / "x"
    assert expand("a/~/x") == Path("a/~/x")
    assert expand("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")


@pytest.mark.parametrize("check", [writable_file, writable_folder, writable_figure])
@pytest.mark.parametrize("name", ["x.png", "a/b/x.png", "~/a/x.png", "a/../x.png", "a/../../x.png"])
def test_nothing_is_left_behind(
    check: type, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")
    before = sorted(home.rglob("*"))
    assert check(name) == expand(name)
    assert sorted(home.rglob("*")) == before


def test_what_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("mine")
    assert writable_file(file) == file
    assert writable_folder(tmp_path) == tmp_path
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json(writable_file(pipe), {"a": 1})
    assert os.read(reader, 100) == b'{\n "a": 1\n}\n'
    assert pipe.is_fifo()
    os.close(reader)


def test_a_json_that_cannot_be_written_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"Cannot write .*x\.json: the disk is gone\. Choose"):
        write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_only_errors_of_the_system_are_translated(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("a bug")


def test_one_writer_at_a_time_and_another_one_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    with only_writer(path), pytest.raises(UserError, match=r"Another process is writing .*jsonl"):
        only_writer(path).__enter__()
    with pytest.raises(KeyboardInterrupt), only_writer(path):
        raise KeyboardInterrupt
    with only_writer(path):  # free again
        pass


def test_the_folder_that_one_is_in_can_be_written_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    with only_writer(Path()), pytest.raises(UserError, match=r"writing .*study: wait"):
        only_writer(tmp_path / "study").__enter__()
