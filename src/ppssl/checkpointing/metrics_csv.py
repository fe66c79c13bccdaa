"""A run's ``metrics.csv``: each line whole or not at all, and a resumed run goes on with it."""

import csv
import os
from pathlib import Path

from fsspec.utils import get_protocol
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

__all__ = ["MetricsWriter", "keep_metrics"]


def keep_metrics(logger: CSVLogger, *, resuming: bool) -> None:
    """Have a logger of local files write by :class:`MetricsWriter`; in the main process, before the run begins."""
    if logger._experiment is None and get_protocol(logger.log_dir) == "file":
        logger._experiment = MetricsWriter(logger.log_dir, resuming=resuming)


class MetricsWriter(ExperimentWriter):
    """Lightning's writer, but for what a full disk, a fixed ``version`` and an interruption would lose.

    Lightning's empties the file to write it again with more columns, and deletes the one of an earlier start in the
    same folder, also where that run is resumed.

    Args:
        log_dir: The logger's.
        resuming: Whether the lines that are there are of the same run, and stay.
    """

    def __init__(self, log_dir: str, *, resuming: bool = False) -> None:
        self._resuming = resuming
        super().__init__(log_dir)

    def save(self) -> None:
        """Write the new lines.

        Raises:
            OSError: The disk is full, or otherwise cannot be written on; the file is as it was.
        """
        if not self.metrics:
            return
        path, columns, size = Path(self.metrics_file_path), list(self.metrics_keys), None
        try:
            if self._record_new_keys() and path.is_file():
                self._rewrite_with_new_header(self.metrics_keys)
            size = path.stat().st_size if path.is_file() else 0
            self._append(path, header=size == 0)
        except OSError:
            self.metrics_keys = columns
            if size is not None and path.is_file():
                os.truncate(path, size)
            raise
        self.metrics = []

    def _append(self, path: Path, *, header: bool) -> None:
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            if header:
                writer.writeheader()
            writer.writerows(self.metrics)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        part = path.with_name(f"{path.name}.part")
        try:
            with path.open(newline="") as old, part.open("w", newline="") as new:
                writer = csv.DictWriter(new, fieldnames=fieldnames)
                writer.writeheader()
                writer.writerows(csv.DictReader(old))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if not self._resuming:
            super()._check_log_dir_exists()
        elif path.is_file():
            content = path.read_bytes()
            os.truncate(path, content.rfind(b"\n") + 1)  # a power failure may have torn the last
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])
