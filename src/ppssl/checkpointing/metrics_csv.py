"""Writer of ``metrics.csv`` for Lightning's ``CSVLogger`` that loses no line if a run is resumed or a disk is full."""

import csv
import os
from pathlib import Path
from typing import Any

from fsspec.utils import get_protocol
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.utils.lightning_internals import set_csv_writer

__all__ = ["MetricsWriter", "keep_metrics"]


def keep_metrics(logger: CSVLogger, *, resuming: bool) -> None:
    """Let a logger of local files write by :class:`MetricsWriter`; for the main process, before the run."""
    if get_protocol(logger.log_dir) == "file":
        set_csv_writer(logger, lambda: MetricsWriter(logger.log_dir, resuming=resuming))


class MetricsWriter:
    """Writes ``metrics.csv`` and ``hparams.yaml`` for Lightning's ``CSVLogger``.

    Lightning's writer empties the file before it writes it again with more columns, and deletes the file of an earlier
    start in the same folder even if that run is resumed.

    Args:
        log_dir: The logger's folder.
        resuming: Whether the file that is there belongs to the same run and is continued.
    """

    def __init__(self, log_dir: str, *, resuming: bool = False) -> None:
        self.metrics: list[dict[str, Any]] = []  # lines that are not written yet
        self._hparams: dict[str, Any] = {}
        self._path = Path(log_dir) / "metrics.csv"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._columns: list[str] = []
        if resuming:
            self._columns = _columns_of_whole_lines(self._path)
        elif self._path.is_file():
            rank_zero_warn(f"{self._path} is from an earlier run and will be deleted.")
            self._path.unlink()

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Collect a line, which :meth:`save` writes."""
        line = {k: v.item() if isinstance(v, Tensor) else v for k, v in metrics.items()}
        self.metrics.append(line | {"step": step})

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write a model's hyperparameters beside the metrics."""
        self._hparams |= params
        save_hparams_to_yaml(str(self._path.with_name("hparams.yaml")), self._hparams)

    def save(self) -> None:
        """Append the collected lines to the file.

        Raises:
            OSError: The disk is full or cannot be written on; the file is as it was.
        """
        if not self.metrics:
            return
        path, size = self._path, None
        columns = sorted({*self._columns, *(name for line in self.metrics for name in line)})
        try:
            if columns != self._columns and path.is_file():
                self._replace_header(columns)
            size = path.stat().st_size if path.is_file() else 0
            self._append(columns, header=size == 0)
        except OSError:
            if size is not None and path.is_file():
                os.truncate(path, size)
            raise
        self.metrics, self._columns = [], columns

    def _append(self, columns: list[str], *, header: bool) -> None:
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            if header:
                writer.writeheader()
            writer.writerows(self.metrics)

    def _replace_header(self, columns: list[str]) -> None:
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            with self._path.open(newline="") as old, part.open("w", newline="") as new:
                writer = csv.DictWriter(new, fieldnames=columns)
                writer.writeheader()
                writer.writerows(csv.DictReader(old))
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)


def _columns_of_whole_lines(path: Path) -> list[str]:
    """Columns of the file; a last line that a power failure left unfinished is cut off."""
    if not path.is_file():
        return []
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    with path.open(newline="") as file:
        return list(csv.DictReader(file).fieldnames or [])
