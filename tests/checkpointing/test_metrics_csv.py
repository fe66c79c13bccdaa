"""What a fixed folder, a full disk and more columns do to a run's ``metrics.csv``."""

import csv
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from ppssl.checkpointing.metrics_csv import MetricsWriter, keep_metrics


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _log(folder: Path, step: int, *, resuming: bool = False, **values: float) -> None:
    """As a logger does that is made, writes a line and is gone."""
    logger = CSVLogger(folder, name="", version="")
    keep_metrics(logger, resuming=resuming)
    logger.log_metrics(values, step)
    logger.save()


@contextmanager
def _full(size: int) -> Iterator[None]:
    """No file grows beyond this: Linux says so as it does of a full disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    _log(tmp_path, 0, loss=1.5)
    _log(tmp_path, 1, resuming=True, loss=0.5)
    _log(tmp_path, 1, resuming=True, top1=0.25)
    assert _rows(tmp_path) == [
        {"loss": "1.5", "step": "0", "top1": ""},
        {"loss": "0.5", "step": "1", "top1": ""},
        {"loss": "", "step": "1", "top1": "0.25"},
    ]


def test_a_new_run_begins_anew(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "config.yaml").touch()
    _log(tmp_path, 0, loss=1.5)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="will be deleted"):
        _log(tmp_path, 0, loss=2.5)
    assert _rows(tmp_path) == [{"loss": "2.5", "step": "0"}]


def test_columns_are_sorted_and_tensors_written_as_numbers(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    keep_metrics(logger, resuming=False)
    logger.log_metrics({"top1": torch.tensor(0.5), "loss": 1.5}, 7)
    logger.log_metrics({"epoch": 2}, 8)
    logger.save()
    text = "epoch,loss,step,top1\n,1.5,7,0.5\n2,,8,\n"
    assert (tmp_path / "metrics.csv").read_text().replace("\r", "") == text


def test_hyperparameters_are_written_beside_the_metrics(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    keep_metrics(logger, resuming=False)
    logger.log_hyperparams({"lr": 0.5})
    logger.log_hyperparams({"seed": 1})
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == {"lr": 0.5, "seed": 1}


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    _log(tmp_path, 0, loss=1.5)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.12")
    _log(tmp_path, 1, resuming=True, loss=0.125)
    assert [row["loss"] for row in _rows(tmp_path)] == ["1.5", "0.125"]
    (tmp_path / "metrics.csv").write_text("los")
    _log(tmp_path, 2, resuming=True, loss=3.0)
    assert _rows(tmp_path) == [{"loss": "3.0", "step": "2"}]


@pytest.mark.parametrize("name", ["loss", "another"])
def test_what_cannot_be_written_leaves_the_file_as_it_was(name: str, tmp_path: Path) -> None:
    """A line too many, or a column: neither half a line nor half a file."""
    writer = MetricsWriter(str(tmp_path))
    for step in range(20):
        writer.log_metrics({"loss": 1 / 3}, step)
    writer.save()
    before = (tmp_path / "metrics.csv").read_bytes()
    writer.log_metrics({name: 1 / 7}, 20)
    with _full(len(before) + 5), pytest.raises(OSError, match="File too large"):
        writer.save()
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    writer.save()
    assert _rows(tmp_path)[-1][name] == str(1 / 7)


def test_what_is_no_local_file_is_left_to_lightning() -> None:
    logger = CSVLogger("memory://runs", name="", version="")
    keep_metrics(logger, resuming=False)
    assert not isinstance(logger.experiment, MetricsWriter)
