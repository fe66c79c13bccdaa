"""Download and unpack archives: several mirrors, broken transfers resumed, MD5 checked, unpacked completely or not."""

import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.progress
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from ppssl.utils.errors import UserError

__all__ = ["Archive", "extract", "fetch", "obtain"]

_CHUNK = 1 << 18
_TIMEOUT = 30.0
_TRIES = 3
"""How often in a row a mirror may give nothing new, before the next one is asked."""
_PAUSE = 0.5
"""Seconds before the first repetition; it doubles."""
_BROKEN = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class Archive:
    """A tar archive on the network.

    Attributes:
        file: Its name.
        md5: Its MD5, hexadecimal.
        folder: The folder in it that, once it is in its place, shows that all is there.
        urls: Where it is, tried in this order.
    """

    file: str
    md5: str
    folder: str
    urls: tuple[str, ...]


def obtain(archive: Archive, root: Path, present: Callable[[], bool]) -> None:
    """Download an archive into a folder and unpack it there; by one process, the others wait.

    An archive that lies there already is not downloaded, and is kept.

    Args:
        archive: The archive.
        root: The folder.
        present: Returns whether the unpacked files are there.

    Raises:
        UserError: No mirror gives the file, it is not to be trusted, or it cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{archive.file}.lock"):
            if not present():
                extract(fetch(archive, root), root, last=archive.folder)
    except OSError as error:
        raise UserError(f"Cannot write to {root}: {error.strerror or error}.") from error


def fetch(archive: Archive, root: Path) -> Path:
    """Download an archive into a folder unless it is there, check its MD5 and return its path.

    What arrives goes to ``<file>.part``; an interrupted download goes on where it stopped, from any mirror.

    Raises:
        UserError: No mirror gives it, with the reason of each.
    """
    path, part = root / archive.file, root / f"{archive.file}.part"
    if path.is_file():
        if _md5(path) == archive.md5:
            return path
        raise UserError(f"{path} is damaged (its MD5 is not {archive.md5}): remove it.")
    reasons = []
    for url in archive.urls:
        reason = _try(url, part, archive.md5)
        if reason is None:
            os.replace(part, path)
            return path
        rank_zero_warn(f"{url}: {reason}.")
        reasons.append(f"{url}: {reason}")
    raise UserError(
        f"Cannot download {archive.file}: {'; '.join(reasons)}. Put the file into {root} yourself, or try again."
    )


def extract(path: Path, root: Path, *, last: str) -> None:
    """Unpack a tar archive into a folder: all of it, or nothing.

    Nothing in it reaches beyond the folder (``tarfile``'s filter ``"data"``): such links, devices and names that lead
    upwards are refused, and absolute names are taken as relative ones.

    Args:
        path: The archive.
        root: The folder.
        last: The top-level entry that is moved into its place last, and so shows that all is there.

    Raises:
        UserError: The archive is damaged or refused, does not hold ``last``, or would overwrite something.
    """
    work = root / f".{path.name}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        work.mkdir()
        _unpack(path, work)
        names = sorted((entry.name for entry in work.iterdir()), key=lambda name: name == last)
        if last not in names:
            raise UserError(f"{path} does not hold {last}.")
        for name in names:
            if not (root / name).exists():
                os.replace(work / name, root / name)
            elif name == last:
                raise UserError(f"{root / name} is there already: move it away.")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _try(url: str, part: Path, md5: str) -> str | None:
    """Complete a partial file from one mirror; returns why that failed, or ``None``. A wrong MD5 deletes the file."""
    resumed = _size(part) > 0
    reason = _transfer(url, part)
    if reason is not None:
        return reason
    if _md5(part) == md5:
        return None
    part.unlink()
    if resumed:  # what was there before may have been wrong
        return _try(url, part, md5)
    return f"its MD5 is not {md5}"


def _transfer(url: str, part: Path) -> str | None:
    """Download to the end, with a new request after each break; returns why that failed, or ``None``."""
    failed, reason, most = 0, "", _size(part)
    while failed < _TRIES:
        try:
            if _read(url, part, _size(part)):
                return None
            reason = "the transfer broke off"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                return f"HTTP {error.code}"
            reason = f"HTTP {error.code}"
        except _BROKEN as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 0 if _size(part) > most else failed + 1
        most = max(most, _size(part))
        time.sleep(_PAUSE * 2**failed / 2)
    return reason


def _read(url: str, part: Path, start: int) -> bool:
    """Download by one request, from byte ``start`` on; returns whether the file is complete."""
    headers = {"User-Agent": "ppssl"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: Any = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if start and error.code == 416:  # nothing is left; the MD5 tells whether all is there
            error.close()
            return True
        raise
    with response:
        start = start if response.status == 206 else 0  # a server may send all of it again
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
        with part.open("ab" if start else "wb") as file, Progress(*columns, transient=True) as bar:
            task = bar.add_task(f"Downloading {part.stem}", total=total, completed=start)
            for chunk in _chunks(response):
                file.write(chunk)
                bar.advance(task, len(chunk))
            return total is None or file.tell() == total


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK):
            yield chunk
    except OSError as error:  # of the network, not of the disk
        raise ConnectionError(str(error)) from error


def _unpack(path: Path, work: Path) -> None:
    try:
        with (
            rich.progress.open(path, "rb", description="Unpacking", transient=True) as raw,
            tarfile.open(fileobj=raw) as tar,
        ):
            tar.extractall(work, filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or not to be trusted: {error}. Remove it.") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
