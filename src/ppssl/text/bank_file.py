"""Embeddings on disk: a NumPy file, memory-mapped, with its manifest in a JSON file beside it.

The NumPy file is there completely or not at all. While it is made, the rows go to ``<name>.part``, and
``<name>.part.json`` says how many are done: after an interruption the rest is made. A lock beside it keeps other
processes and runs waiting in the meantime. The manifest has checksums of the rows and of itself; banks of earlier
versions have none and are read without.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tokenize
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ppssl.utils.errors import UserError
from ppssl.utils.paths import writable_file
from ppssl.utils.results import finite_or_null, write_json

__all__ = ["RowWriter", "obtain", "read_rows"]

SCHEMA = 2
_CHUNK = 16_384
_CHECKSUMS = "crc32"
_DAMAGED = (OSError, KeyError, TypeError, ValueError, SyntaxError, tokenize.TokenError)
"""What the reading of damaged JSON and NumPy files raises."""


def obtain(
    path: Path, wanted: Mapping[str, Any], make: Callable[[], None]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Read a file by :func:`read_rows`; if there is none, one process makes it first and the others wait.

    Args:
        path: The ``.npy`` file.
        wanted: Values that its manifest must have; ``None``: any value.
        make: Writes the file with a :class:`RowWriter`.
    """
    if not path.is_file():
        writable_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.is_file():
                with _usable(path):
                    make()
                return read_rows(path, wanted)
    rank_zero_info(f"Found the bank {path}.")
    return read_rows(path, wanted)


def read_rows(path: Path, wanted: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Read the memory-mapped rows ``(N, ...)``, the mean ``(e,)`` float32 of those that are not 0, and the manifest.

    Raises:
        UserError: The file is damaged, or its manifest has other values than ``wanted``.
    """
    try:
        manifest = _read_manifest(path)
        mean = np.array(manifest.pop("mean"), np.float32)
        rows = np.lib.format.open_memmap(path, mode="c")  # not "r": a tensor has to be writable
        if [str(rows.dtype), list(rows.shape)] != [manifest["dtype"], manifest["shape"]]:
            raise ValueError(f"it holds {rows.dtype} {rows.shape}")
        if mean.shape != rows.shape[-1:] or not np.isfinite(mean).all():
            raise ValueError("the mean of its rows is not finite, or of another length")
    except _DAMAGED as error:
        said = " ".join(str(error).split())
        raise UserError(f"The bank {path} is damaged ({said}): remove it.") from error
    for name, value in ({"schema": SCHEMA} | dict(wanted)).items():
        if name not in manifest or value not in (None, manifest[name]):
            stored, what = manifest.get(name, "missing"), name.replace("_", " ")
            raise UserError(
                f"The bank {path} does not fit: its {what} is {stored}, wanted is "
                f"{'any value' if value is None else value}. Remove it, or choose another `bank_dir`."
            )
    return torch.from_numpy(rows), torch.from_numpy(mean), manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, after its checksums, without them."""
    manifest = json.loads(path.with_suffix(".json").read_text())
    if not isinstance(manifest, dict):
        raise TypeError("its manifest is not a JSON object")
    if (expected := manifest.pop(_CHECKSUMS, None)) is not None:
        for name, value in _checksums(path, manifest).items():
            if value != expected[name]:
                raise ValueError(f"its {name} are not what was written")
    return manifest


def _checksums(path: Path, manifest: Mapping[str, Any]) -> dict[str, int]:
    """CRC-32 of the file of the rows, read in chunks, and of the other values of the manifest."""
    rows = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            rows = zlib.crc32(chunk, rows)
    text = json.dumps(manifest, sort_keys=True)
    return {"rows": rows, "values of its manifest": zlib.crc32(text.encode())}


class RowWriter:
    """Writer of a file of embeddings, in order; continues the file of an interrupted writer with the same manifest.

    Args:
        path: The ``.npy`` file to make.
        shape: Shape of all rows, ``(N, ..., e)``.
        dtype: ``float16`` or ``float32``.
        manifest: Plain data that is kept in the ``.json`` file beside it.

    Attributes:
        done: Number of rows that are written.

    Raises:
        UserError: There is no room on the disk.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: str, manifest: Mapping[str, Any]
    ) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.progress = path.with_name(path.name + ".part.json")
        self.manifest = {"schema": SCHEMA, "dtype": dtype, "shape": list(shape)} | dict(manifest)
        self.dtype, self.total = np.dtype(dtype), shape[0]
        header, row_bytes = _header(self.dtype, shape), np.empty(shape[1:], self.dtype).nbytes
        self.done = self._resume(len(header), row_bytes)
        self._check_space((self.total - self.done) * row_bytes)
        self.file = self.part.open("r+b" if self.done else "wb")
        self.file.write(header)
        self.file.seek(self.done * row_bytes, os.SEEK_CUR)

    def write(self, rows: Tensor) -> None:
        """Add rows ``(n, ..., e)``, on any device and of any floating type."""
        self.file.write(rows.cpu().numpy().astype(self.dtype).tobytes())
        self.done += len(rows)

    def save(self) -> None:
        """Flush the rows so far to the disk, so that an interrupted run continues from them."""
        self._sync()
        write_json(self.progress, {"done": self.done, "manifest": self.manifest})

    def commit(self) -> None:
        """Write the manifest, and rename the finished ``.part`` file.

        Raises:
            UserError: A row is not finite.
        """
        if self.done != self.total:
            raise ValueError(f"{self.done} of {self.total} rows are written.")
        self._sync()
        self.file.close()
        mean = self._mean()
        if not np.isfinite(mean).all():
            raise UserError(
                f"The bank {self.path} is not kept: embeddings of the teacher are not finite. Choose another teacher."
            )
        manifest = finite_or_null(self.manifest | {"mean": mean.tolist()})
        checksums = _checksums(self.part, json.loads(json.dumps(manifest)))
        write_json(self.path.with_suffix(".json"), manifest | {_CHECKSUMS: checksums})
        os.replace(self.part, self.path)
        self.progress.unlink(missing_ok=True)

    def _sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def _mean(self) -> np.ndarray:
        """Mean of all embeddings that are not 0, ``(e,)`` float32; reads the file in chunks."""
        stored = np.lib.format.open_memmap(self.part, mode="r")
        rows = stored.reshape(-1, stored.shape[-1])
        total, count = np.zeros(rows.shape[-1]), 0
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK].astype(np.float32)
            total += part.sum(axis=0, dtype=np.float64)
            count += int(part.any(axis=1).sum())
        return (total / max(count, 1)).astype(np.float32)

    def _resume(self, header: int, row: int) -> int:
        """Rows that an interrupted writer has finished; ``header`` and ``row`` in bytes."""
        try:
            state = json.loads(self.progress.read_text())
            same = state["manifest"] == json.loads(json.dumps(self.manifest))
            done = int(state["done"])
            there = self.part.stat().st_size >= header + done * row
        except (OSError, KeyError, TypeError, ValueError):
            return 0
        return done if same and there and 0 <= done <= self.total else 0

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if size > free:
            raise UserError(
                f"The bank {self.path} takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: make room, or "
                "choose another `bank_dir`."
            )


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    content = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, content)
    return file.getvalue()


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """After an error remove rows of which none is noted as done, as on a full disk: nothing can go on from them."""
    try:
        yield
    except BaseException:
        if not path.with_name(path.name + ".part.json").is_file():
            path.with_name(path.name + ".part").unlink(missing_ok=True)
        raise


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        rank_zero_info(f"Another process makes {path}: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
