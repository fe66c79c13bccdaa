import contextlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppssl.text import bank_file
from ppssl.text.bank_file import RowWriter, obtain, read_rows
from ppssl.utils.errors import UserError


def _write(path: Path, rows: torch.Tensor, **manifest: str) -> None:
    writer = RowWriter(path, tuple(rows.shape), "float16", manifest)
    writer.write(rows[writer.done :])
    writer.commit()


def test_round_trip(tmp_path: Path) -> None:
    rows = torch.randn(10, 2, 4)
    rows[3] = 0  # could not be read
    path = tmp_path / "a.npy"
    _write(path, rows, teacher="x")
    read, mean, manifest = read_rows(path, {"teacher": "x"})
    torch.testing.assert_close(read, rows.half())
    kept = torch.cat([rows[:3], rows[4:]]).half().float().flatten(0, 1)
    torch.testing.assert_close(mean, kept.mean(dim=0))
    assert manifest == {"schema": 2, "shape": [10, 2, 4], "dtype": "float16", "teacher": "x"}
    assert np.array_equal(np.load(path), read)  # a plain NumPy file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npy"]


def test_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    rows, path = torch.randn(10, 1, 4), tmp_path / "a.npy"
    first = RowWriter(path, (10, 1, 4), "float16", {"teacher": "x"})
    first.write(rows[:6])
    first.save()
    first.write(rows[6:8] * 0 + 9)  # written, but never saved as done
    assert not path.exists()
    second = RowWriter(path, (10, 1, 4), "float16", {"teacher": "x"})
    assert second.done == 6
    second.write(rows[6:])
    second.commit()
    torch.testing.assert_close(read_rows(path, {})[0], rows.half())
    other = RowWriter(tmp_path / "b.npy", (10, 1, 4), "float16", {"teacher": "x"})
    other.write(rows[:6])
    other.save()
    changed = RowWriter(tmp_path / "b.npy", (10, 1, 4), "float16", {"teacher": "y"})
    assert changed.done == 0


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    _write(path, torch.randn(3, 1, 4), teacher_hash="old")
    with pytest.raises(UserError, match=r"its teacher hash is old, wanted is new\. Remove it"):
        read_rows(path, {"teacher_hash": "new"})
    read_rows(path, {"teacher_hash": None})  # not known: not verified


@pytest.mark.parametrize(
    "damage", ["torn", "text", "empty", "foreign", "no manifest", "torn manifest"]
)
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npy"
    _write(path, torch.randn(3, 1, 4))
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "text":
        path.write_text("no NumPy file at all")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        np.save(path, np.zeros((2, 1, 4), np.float16))
    elif damage == "no manifest":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("{")
    with pytest.raises(UserError, match=r"is damaged .*: remove it"):
        read_rows(path, {})


def _edit(path: Path, edit: Callable[[Any], Any]) -> None:
    """Change a manifest."""
    file = path.with_suffix(".json")
    content = json.loads(file.read_text())
    changed = edit(content)
    file.write_text(json.dumps(content if changed is None else changed))


@pytest.mark.parametrize("edit", [
    lambda m: [], lambda m: 3, lambda m: {}, lambda m: m.pop("mean") and None, lambda m: m.update(mean={}),
    lambda m: m.update(mean=[1.0]), lambda m: m["mean"].__setitem__(0, 9.0), lambda m: m.update(teacher="y"),
    lambda m: m.pop("shape") and None, lambda m: m.update(crc32=[]), lambda m: m.update(crc32={"rows": 0}),
    lambda m: m.update(more=1),
])  # fmt: skip
def test_changed_manifests(edit: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    _write(path, torch.randn(3, 1, 4), teacher="x")
    _edit(path, edit)
    with pytest.raises(UserError, match=r"is damaged .*: remove it"):
        read_rows(path, {})


@pytest.mark.parametrize("at", [80, 127, 128, 150, -1])
def test_a_changed_bit_of_the_rows_is_seen(at: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    _write(path, torch.randn(20, 1, 4))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged \(its rows are not what was"):
        read_rows(path, {})


def test_banks_without_checksums_are_read(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.npy", torch.randn(3, 1, 4)
    _write(path, rows, teacher="x")
    _edit(path, lambda m: m.pop("crc32") and None)
    read, _, manifest = read_rows(path, {"teacher": "x"})
    assert torch.equal(read, rows.half())
    assert "crc32" not in manifest
    good = path.read_bytes()
    for seed in range(60):  # whatever the header is read as
        content, rng = bytearray(good), random.Random(seed)
        content[rng.randrange(118)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            assert read_rows(path, {})[0].shape == rows.shape
    _edit(path, lambda m: m.update(mean=[float("nan")] * 4))
    path.write_bytes(good)
    with pytest.raises(UserError, match="mean of its rows is not finite"):
        read_rows(path, {})


def test_a_value_that_has_to_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    _write(path, torch.randn(3, 1, 4))
    with pytest.raises(UserError, match="its temperature is missing, wanted is any value"):
        read_rows(path, {"temperature": None})


def test_rows_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(UserError, match="embeddings of the teacher are not finite"):
        _write(path, torch.tensor([[[1.0, float("nan")]], [[1.0, 1.0]]]))
    assert not path.exists()


@pytest.mark.parametrize("damage", ["a list", "no manifest", "too many", "negative", "rows cut"])
def test_a_damaged_interruption_begins_again(damage: str, tmp_path: Path) -> None:
    rows, path = torch.randn(10, 1, 4), tmp_path / "a.npy"
    first = RowWriter(path, (10, 1, 4), "float16", {})
    first.write(rows[:6])
    first.save()
    first.file.close()
    state = json.loads(first.progress.read_text())
    if damage == "rows cut":
        first.part.write_bytes(first.part.read_bytes()[:150])
    else:
        changes = {
            "too many": state | {"done": 11},
            "negative": state | {"done": -1},
            "no manifest": {"done": 6},
        }
        first.progress.write_text(json.dumps(changes.get(damage, [6])))
    _write(path, rows)
    torch.testing.assert_close(read_rows(path, {})[0], rows.half())


@pytest.mark.parametrize("noted", [True, False])
def test_rows_that_are_not_noted_do_not_stay(noted: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def make() -> None:
        writer = RowWriter(path, (10, 1, 4), "float16", {})
        writer.write(torch.randn(6, 1, 4))
        if noted:
            writer.save()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        obtain(path, {}, make)
    assert (tmp_path / "a.npy.part").is_file() is noted


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000})
    monkeypatch.setattr(bank_file.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"takes 0.4 GB, and 0.0 GB are free: make room"):
        RowWriter(tmp_path / "a.npy", (200_000, 1, 1000), "float16", {})


FORKED = multiprocessing.get_context("fork")
"""Processes that need no start of Python, which takes the time."""


def test_of_two_at_once_one_makes_it(tmp_path: Path) -> None:
    path, log, both = tmp_path / "a.npy", tmp_path / "log", FORKED.Barrier(2)

    def make() -> None:
        with log.open("a") as file:
            file.write("made\n")
        writer = RowWriter(path, (4, 1, 2), "float16", {})
        time.sleep(0.5)
        writer.write(torch.ones(4, 1, 2))
        writer.commit()

    def run(found: Path) -> None:
        both.wait()
        found.write_text(str(float(obtain(path, {}, make)[0].sum())))

    places = [tmp_path / "first", tmp_path / "second"]
    runs = [FORKED.Process(target=run, args=(place,)) for place in places]
    for process in runs:
        process.start()
    for process in runs:
        process.join(300)
    assert [process.exitcode for process in runs] == [0, 0]
    assert [place.read_text() for place in places] == ["8.0", "8.0"]
    assert log.read_text() == "made\n"


def test_a_killed_maker_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    process = FORKED.Process(target=lambda: obtain(path, {}, lambda: os._exit(9)))
    process.start()
    process.join(300)
    assert process.exitcode == 9
    rows = torch.ones(2, 1, 2)
    obtain(path, {}, lambda: _write(path, rows))
    torch.testing.assert_close(read_rows(path, {})[0], rows.half())


MILLION = """
import json, sys, numpy as np, torch
from pathlib import Path
from ppssl.text.bank_file import RowWriter, read_rows
path = Path(sys.argv[1])
writer = RowWriter(path, (1_000_000, 1, 512), "float16", {})
block = torch.randn(10_000, 1, 512)
for i in range(100):
    writer.write(block)
writer.commit()
del writer
rows, mean, _ = read_rows(path, {})
total = 0.0
for i in range(0, 1_000_000, 100_000):
    total += float(rows[torch.randint(i, i + 100_000, (256,))].float().sum())
# VmHWM: ru_maxrss begins with the memory of the parent, which runs the other tests
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({"max_rss_kib": peak,
                  "shape": list(rows.shape)}))
"""


@pytest.mark.slow
def test_a_million_images_from_disk(tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MILLION, str(tmp_path / "a.npy")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    used = json.loads(done.stdout)
    assert used["shape"] == [1_000_000, 1, 512]
    assert used["max_rss_kib"] < 2e9 / 1024


def test_mean_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_file, "_CHUNK", 4)
    rows = torch.randn(11, 1, 3)
    _write(tmp_path / "a.npy", rows)
    expected = rows.half().double().mean(dim=0)[0].float()
    torch.testing.assert_close(read_rows(tmp_path / "a.npy", {})[1], expected)
