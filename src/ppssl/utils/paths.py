"""Paths of users: ``~`` expanded, and tried before long work whose results are to be written there."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ppssl.utils.errors import UserError

__all__ = [
    "PATH_TYPES",
    "AnyPath",
    "cache_folder",
    "expand",
    "expand_arguments",
    "expand_config",
    "expand_text",
    "only_writer",
    "writable_figure",
    "writable_file",
    "writable_folder",
    "writable_parquet",
    "write_whole",
    "writing",
]

AnyPath = str | os.PathLike[str]
PATH_TYPES = (str, os.PathLike)
"""Types of a path, for ``isinstance``."""
_PROBE = b"\0" * 4096


def expand(path: AnyPath, what: str = "A path") -> Path:
    """Return a path with ``~`` or ``~user`` as a shell expands it: an unknown user's stays as it is.

    Args:
        path: The path.
        what: What the message calls it.

    Raises:
        UserError: The path is empty, as an unset variable of a shell is; it would be the working folder.
    """
    if os.fspath(path) == "":
        raise UserError(f"{what} is empty: name a file or folder (`.` is the working folder).")
    return Path(os.path.expanduser(path))


def expand_text(text: AnyPath) -> str:
    """Return a path like :func:`expand`, as a string; names that are no paths, such as hub ids, stay as they are."""
    return os.path.expanduser(os.fspath(text))


def expand_arguments(argv: Sequence[str]) -> list[str]:
    """Expand ``~/x`` and ``--option=~/x`` in a command line, of which shells expand the first only.

    ``~`` alone stays, as it is YAML for "none".
    """
    expanded = []
    for arg in argv:
        option, equals, value = arg.partition("=")
        is_option = arg.startswith("-") and equals == "="
        expanded.append(f"{option}={expand_config(value)}" if is_option else expand_config(arg))
    return expanded


def expand_config(content: Any) -> Any:
    """Expand the strings of a configuration that begin with ``~/`` or ``~user/``, at any depth."""
    if isinstance(content, str):
        return expand_text(content) if content[:1] == "~" and len(content) > 1 else content
    if isinstance(content, Mapping):
        return {name: expand_config(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(expand_config(value) for value in content)
    return content


def cache_folder() -> Path:
    """Return the folder of what is computed once: ``$PPSSL_CACHE``, else ``~/.cache/ppssl``."""
    return expand(os.environ.get("PPSSL_CACHE") or "~/.cache/ppssl")


def writable_file(path: AnyPath) -> Path:
    """Check that a file can be written, before the work whose result it takes; nothing is left behind.

    Missing parent folders are allowed: :func:`writing` and its callers create them.

    Returns:
        The expanded path.

    Raises:
        UserError: The file or its folder cannot be written, the disk is full, or the path is a folder.
    """
    path = expand(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError("it is a folder, a file is needed")
        _check_access(path)
        if not path.exists() or path.is_file():  # nothing can be tried on a pipe or a device
            _try_to_write(path)
    return path


def writable_folder(path: AnyPath) -> Path:
    """Check that files can be written to a folder, which may be missing; nothing is left behind.

    Returns:
        The expanded path.

    Raises:
        UserError: The folder cannot be created or written, the disk is full, or a file is in its way.
    """
    path = expand(path)
    with writing(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError("it is a file, a folder is needed")
        _try_to_write(path / "file")
    return path


def writable_figure(path: AnyPath) -> Path:
    """Check like :func:`writable_file`, and that matplotlib knows the format of the file's ending.

    Raises:
        UserError: The file cannot be written, or it has another ending.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path = writable_file(path)
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in formats:
        raise UserError(
            f"{path} is not a figure: give it one of the endings .{', .'.join(formats)}."
        )
    return path


def writable_parquet(path: AnyPath) -> Path:
    """Check like :func:`writable_file`, and that the file's ending is ``.parquet``.

    Raises:
        UserError: The file cannot be written, or it has another ending.
    """
    path = writable_file(path)
    if path.suffix != ".parquet":
        raise UserError(
            f"{path} is written as Parquet, and has another ending: name it {path.with_suffix('.parquet').name}."
        )
    return path


@contextmanager
def writing(path: AnyPath) -> Iterator[None]:
    """Turn an error of the system while a file or folder is written into a :class:`UserError` that names it."""
    try:
        yield
    except OSError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)).rstrip(".")
        raise UserError(
            f"Cannot write {os.fspath(path)}: {reason}. Choose a place that is writable and has space."
        ) from error


def write_whole(path: AnyPath, text: str) -> None:
    """Write a text file in one step: after an interruption it is complete, either the old or the new one.

    A pipe or device, such as ``/dev/stdout``, is written to and not replaced.

    Raises:
        UserError: The file cannot be written.
    """
    path = expand(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def only_writer(path: Path, folder: Path | None = None) -> Iterator[None]:
    """Hold a lock while a file or folder is written.

    Args:
        path: The file or folder.
        folder: Folder of the lock, the same for all who write the file; ``None``: that of the file.

    Raises:
        UserError: Another process holds it.
    """
    path = Path(os.path.abspath(path))  # of `.`, which has no name
    lock = FileLock((folder or path.parent) / f"{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another process is writing {path}: wait until it has finished, or choose another place."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_access(path: Path) -> None:
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError("it is write-protected")


def _try_to_write(path: Path) -> None:
    """Write a file of the same name, below missing folders of the same names, to a temporary folder next to it."""
    path = Path(os.path.abspath(path))  # without `..`, which would leave the temporary folder
    existing = next(folder for folder in path.parents if os.path.lexists(folder))
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file, a folder is needed")
    with tempfile.TemporaryDirectory(dir=existing, prefix=".ppssl-") as temporary:
        probe = Path(temporary, path.relative_to(existing))
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(_PROBE)
