"""Results: nothing lost in packing, files old or new but never torn, and where they came from."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppssl.utils import results
from ppssl.utils.results import (
    Results,
    pack_bits,
    provenance,
    show_table,
    unpack_bits,
    without_local,
    without_paths,
    write_json,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=70))
def test_bits_come_back(bits):
    array = np.array(bits, dtype=bool)
    again = unpack_bits(pack_bits(array))
    assert again.dtype == bool
    np.testing.assert_array_equal(again, array)


def test_bits_are_packed_eight_to_a_byte():
    text = pack_bits(np.ones(8000))
    assert text.startswith("8000:")
    assert len(text) < 8000 / 6 + 20


def test_json_is_written_with_its_folder(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(str(path), {"z": 1, "a": [0.5, None]})
    assert json.loads(path.read_text()) == {"z": 1, "a": [0.5, None]}
    assert path.read_text().index('"a"') < path.read_text().index('"z"')
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / "r.json"
    content = {"a": float("nan"), "b": [1.5, np.float32("inf")], "c": {"d": (-np.inf, np.int64(2))}}
    write_json(path, content)
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None], "c": {"d": [None, 2]}}


def test_content_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"first": 1, "second": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_disk_that_is_full_in_the_middle_leaves_the_old_file(tmp_path):
    """A limit on file size cuts the write short in a process of its own."""
    path = tmp_path / "r.json"
    write_json(path, {"old": 1})
    code = (
        "import resource, signal, sys\n"
        "from ppssl.utils.results import write_json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_json(sys.argv[1], {'new': 'x' * 100_000})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "OSError" in done.stderr
    assert json.loads(path.read_text()) == {"old": 1}


def test_provenance_names_commit_machine_and_versions():
    found = provenance()
    assert set(found) == {"commit", "python", "machine", "versions"}
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["ppssl"] == version("ppssl")
    assert re.match(r"3\.\d+\.\d+", found["python"])
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
    json.dumps(found)


def _git(folder, *args):
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_code_and_says_if_it_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    assert provenance()["commit"] is None
    (tmp_path / "results.py").write_text("1")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "m")
    _git(tmp_path, "tag", "-a", "v1", "-m", "m")  # a tag must not take the commit's place
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert provenance()["commit"] == commit
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    os.utime(tmp_path / "results.py", (1, 1))  # of which git would keep a note, behind a lock
    assert provenance()["commit"] == commit
    assert index.read_bytes() == before
    (tmp_path / "results.py").write_text("2")
    assert provenance()["commit"] == f"{commit}-dirty"


def test_a_repository_around_the_environment_is_not_ours(tmp_path, monkeypatch):
    package = tmp_path / "venv" / "site-packages"
    package.mkdir(parents=True)
    (package / "results.py").write_text("1")
    (tmp_path / "theirs.py").write_text("1")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "theirs.py")
    _git(tmp_path, "commit", "-qm", "m")
    monkeypatch.setattr(results, "__file__", str(package / "results.py"))
    assert provenance()["commit"] is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["commit"] is None


def test_results_are_plain_data_with_a_schema():
    result = Results(
        metrics={"knn-1": 0.5}, units={"knn-1": "fraction"}, protocol="clean-1", seed=3
    )
    content = json.loads(json.dumps(result.to_dict()))
    assert content["schema_version"] == 1
    assert content["metrics"] == {"knn-1": 0.5}
    assert content["units"] == {"knn-1": "fraction"}
    assert (content["protocol"], content["seed"]) == ("clean-1", 3)
    assert content["provenance"]["versions"]["torch"] == version("torch")


def test_a_table_shows_every_cell(capsys):
    show_table("Title", ["name", "value"], [["a", "1.5"], ["b", "2.5"]])
    out = capsys.readouterr().out
    for text in ("Title", "name", "value", "a", "1.5", "b", "2.5"):
        assert text in out


@pytest.mark.parametrize("width", [30, 80, 300])
def test_a_table_wider_than_the_terminal_goes_on_below(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["variant", *(f"metric-{i}" for i in range(12))]
    rows = [[name, *(f"{name[0]}{i}.5 ± 0.1" for i in range(12))] for name in ("base", "other")]
    show_table("Title", columns, rows, caption="file")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    words = out.replace("│", " ").replace("┃", " ").split()
    for row in (columns, *rows):
        for cell in row[1:]:
            assert words.count(cell.split()[0]) == 1
    assert words.count("base") == words.count("variant") == len(out.split("variant")) - 1
    assert out.count("Title") == 1
    assert (words.count("base") == 1) == (width == 300)


def test_long_cells_of_a_table_are_wrapped_and_lose_nothing(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    path = "images/" + "0123456789" * 9 + ".png"
    show_table("[red]Title", ["image", "text"], [[path, "a bird with [blue] eyes [/]"]])
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split("│") for line in lines if line.startswith("│")]
    assert "".join(cell[1].strip() for cell in cells) == path
    assert " ".join(" ".join(cell[2] for cell in cells).split()) == "a bird with [blue] eyes [/]"
    assert lines[0].strip() == "[red]Title"


def test_what_this_machine_alone_has_set_is_not_written_down():
    data = {
        "class_path": "FolderDataModule",
        "init_args": {"root": "/home/me/images", "seed": None},
    }
    plugin = {"class_path": "ppssl.AIS", "init_args": {"bank_dir": "/home/me/banks", "corpus": "x"}}
    model = {"class_path": "ppssl.PPSSL", "init_args": {"lr": 0.1, "plugins": {"ais": plugin}}}
    config = {"data": data, "model": model}
    local = [
        "--data.root=/home/me/images",
        "--model.plugins.ais.bank_dir=/home/me/banks",
        "--trainer.devices=1",
    ]
    written = without_local(config, local)
    assert "/home/me" not in json.dumps(written)
    assert written["data"]["init_args"] == {"root": None, "seed": None}
    assert written["model"]["init_args"]["plugins"]["ais"]["init_args"] == {
        "bank_dir": None,
        "corpus": "x",
    }
    assert written["model"]["init_args"]["lr"] == 0.1
    assert without_local(config, []) == config


def test_absolute_paths_of_any_machine_are_not_written_down():
    config = {
        "model": {"class_path": "ppssl.PPSSL", "init_args": {"pretrained": "/models/a.ckpt"}},
        "data": {"init_args": {"root": "C:\\images", "extra": ["~/more", "images/here"], "n": 3}},
    }
    assert without_paths(config) == {
        "model": {"class_path": "ppssl.PPSSL", "init_args": {"pretrained": None}},
        "data": {"init_args": {"root": None, "extra": [None, "images/here"], "n": 3}},
    }
