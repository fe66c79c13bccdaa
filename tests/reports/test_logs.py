"""Logs of runs: event files and tables, of one start or of several."""

import csv
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from ppssl.reports.logs import read_logs
from ppssl.reports.run import find_run


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
