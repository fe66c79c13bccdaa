"""Logs of runs: event files and tables, of one start or of several."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from ppssl.reports.logs import read_logs
from ppssl.reports.run import find_run, start_and_end


def _write(folder: Path, values: dict[int, float], *, table: bool) -> Path:
    folder.mkdir(parents=True)
    if table:
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["epoch", "step", "train/loss", "val/x"])
            writer.writeheader()
            for step, value in values.items():
                writer.writerow({"step": step, "train/loss": value})
    else:
        with SummaryWriter(folder) as board:
            for step, value in values.items():
                board.add_scalar("train/loss", value, step)
    return folder


@pytest.mark.parametrize("fault", ["none", "cut", "content", "length"])
def test_a_damaged_event_file_is_read_up_to_the_damage_with_a_warning(
    fault: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = _write(tmp_path / "version_0", {i: float(i) for i in range(10)}, table=False)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    last = content.rindex(b"train/loss")
    if fault == "cut":
        del content[last + 4 :]
    elif fault == "content":
        content[last] ^= 1
    elif fault == "length":
        first = content.index(b"train/loss")
        content[content.index(b"train/loss", first + 1) - 29] ^= 1
    path.write_bytes(content)
    scalars, _ = read_logs([folder])
    told = [str(w.message) for w in recwarn if path.name in str(w.message)]
    whole = {"none": 10, "cut": 9, "content": 9, "length": 1}[fault]
    assert scalars["train/loss"][0].tolist() == list(range(whole))
    assert len(told) == (fault != "none")
    assert all(f"of {len(content)}" in message for message in told)


@pytest.mark.parametrize("table", [True, False])
def test_starts_of_a_resumed_run_are_joined(table: bool, tmp_path: Path) -> None:
    other = _write(tmp_path / "version_0", {9: 8.0, 19: 8.0}, table=table)
    first = _write(tmp_path / "version_1", {9: 5.0, 19: 4.0, 29: 3.0, 39: 9.0}, table=table)
    last = _write(tmp_path / "version_2", {29: 3.0, 39: 2.0, 49: 1.0}, table=table)
    scalars, used = read_logs([last, first, other])
    steps, values = scalars["train/loss"]
    assert steps.tolist() == [9, 19, 29, 39, 49]
    assert values.tolist() == [5, 4, 3, 2, 1]
    assert used == 2  # the log before is of another run
    assert set(scalars) == {"train/loss"}


def test_of_a_step_that_is_logged_twice_the_last_value_counts(tmp_path: Path) -> None:
    folder = _write(tmp_path / "v", {}, table=True)
    (folder / "metrics.csv").write_text("step,a\n9,1\n19,2\n9,3\n")
    steps, values = read_logs([folder])[0]["a"]
    assert (steps.tolist(), values.tolist()) == ([9, 19], [3, 2])
    assert np.issubdtype(steps.dtype, np.integer)


@pytest.mark.parametrize(
    ("table", "odd"),
    [
        (b"step,a\n9,1\n19,low\nsoon,3\n29,2\n", 2),
        (b"epoch,step,a\n0,9,1\n0,19\n0,29,2,7,8\n", 1),  # lines that are torn and run together
        (b"step,a\n9,1\ninf,2\nnan,3\n29,2\n", 2),
        (b"step,a\n9,1\n\xff\xfe,4\n29,2\n", 1),
        (b"step,a\n9,1\n29,2\n" + bytes(200_000), 0),
        (b'step,a\n9,1\n19,"\n29,2\n', 1),
    ],
)
def test_what_is_no_number_in_a_damaged_table_is_left_out(
    table: bytes, odd: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "metrics.csv").write_bytes(table)
    scalars, _ = read_logs([tmp_path])
    assert [values.tolist() for values in scalars["a"]] == [[9, 29], [1, 2]]
    assert [f"metrics.csv: {odd} entries are no" in str(w.message) for w in recwarn] == [True] * (
        odd > 0
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "seed_everything: 99999999999999999999\ntrainer: [1]\n"),
        ("config.yaml", "seed_everything: -1\ntrainer: fast\n"),
        ("config.yaml", "- a\n"),
        ("config.yaml", "a: !!python/object/apply:os.getcwd []\n"),
        ("start_and_end.json", '{"start": {"knn_top1": "high"}, "end": {}, "end_epoch": 1}'),
        ("start_and_end.json", '{"start": {"knn_top1": 0.5}, "end": 3, "end_epoch": 1}'),
        ("start_and_end.json", '{"start": {"knn_top1": 0.5}, "end": {"knn_top1": 0.6}}'),
        ("start_and_end.json", "[1, 2]"),
        ("start_and_end.json", "{"),
    ],
)
def test_files_of_others_beside_the_log(name: str, content: str, run: Path, tmp_path: Path) -> None:
    """They have the names of ours."""
    (last,) = run.rglob("last.ckpt")
    (tmp_path / "last.ckpt").write_bytes(last.read_bytes())
    _write(tmp_path / "logs", {9: 1.0}, table=True)
    (tmp_path / "logs" / "metrics.csv").rename(tmp_path / "metrics.csv")
    (tmp_path / name).write_text(content)
    found = find_run(tmp_path / "last.ckpt")
    assert found.logs == [tmp_path]
    assert (found.seed, found.settings.get("trainer", {})) == (0, {})
    saved = torch.load(last, weights_only=True)["callbacks"]["RepresentationMonitor"]
    assert start_and_end(found) == saved


def test_logs_are_found_beside_the_checkpoint(run: Path, tmp_path: Path) -> None:
    (last,) = run.rglob("last.ckpt")
    version = last.parents[1]
    for place in (run, version, last):
        found = find_run(place)
        assert (found.name, found.checkpoint, found.logs) == ("small", last, [version])
        assert found.seed == 0
    shared = tmp_path / "mine" / "checkpoints"
    shared.mkdir(parents=True)
    (shared / "last.ckpt").write_bytes(last.read_bytes())
    logs = [
        _write(tmp_path / "mine" / "lightning_logs" / f"version_{i}", {9: 1.0}, table=True)
        for i in (2, 10)
    ]
    assert find_run(tmp_path / "mine").logs == logs[::-1]
