"""Image source of shards, as webdataset writes them: tar files whose members of one key are a sample.

The key is the member's name up to the first dot of its last part: ``birds/000123.jpg`` and ``birds/000123.cls`` are one
sample. A tar file that is not compressed has random access: its members are listed once, and images are read by offset.
"""

import glob
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import numpy as np
from rich.progress import track

from ppssl.data.files import EncodedSource
from ppssl.data.scan import image_endings
from ppssl.data.sets.rows import Rows, are_files, label_of_row
from ppssl.data.sets.tables import raise_file_error
from ppssl.data.source import UNKNOWN, PassedOver, digest, path_text
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.paths import AnyPath, expand

__all__ = ["Member", "ShardSource", "are_shards", "open_shards"]

_ENDING = re.compile(r"\.(tar|tgz|tbz2|txz|tar\.\w+)$", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""First bytes of gzip, bzip2, xz, zstd and lz4."""
_BLOCK = 512
_ABSENT = object()
_DAMAGED = (tarfile.TarError, ValueError, EOFError, ArithmeticError, LookupError, MemoryError)
"""Exceptions that ``tarfile`` raises for damaged files."""


class Member(NamedTuple):
    """Image in a shard: its file, its name there, and where its bytes are."""

    shard: Path
    name: str
    offset: int
    size: int


class ShardSource(EncodedSource):
    """Images of shards, in the order of shards and members; without labels until ``labels`` and ``classes`` are set.

    A shard is opened for each image, so that worker processes and threads share nothing.

    Args:
        members: The images.
        passed_over: Members that are neither images nor labels, by reason.
    """

    def __init__(self, members: Sequence[Member], passed_over: PassedOver) -> None:
        self.members, self.passed_over = members, passed_over
        self.labels, self.classes = np.full(len(members), UNKNOWN), []

    def encoded(self, i: int) -> bytes:
        """Bytes of image ``i``."""
        member = self.members[i]
        with member.shard.open("rb") as file:
            file.seek(member.offset)
            content = file.read(member.size)
        if len(content) < member.size:
            raise OSError("the shard is shorter than when its members were listed")
        return content

    def encoded_size(self, i: int) -> int:
        """Number of bytes of image ``i``."""
        return self.members[i].size

    def name(self, i: int) -> str:
        """Name of image ``i``: its shard and its name there."""
        return f"{path_text(self.members[i].shard)}, {self.members[i].name}"

    def fingerprint(self) -> str:
        """Hash of names and sizes: unchanged if the shards are moved, and no image is read."""
        return digest(f"{m.shard.name} {m.name} {m.size}" for m in self.members)


def are_shards(dataset: Any) -> TypeGuard[AnyPath | Sequence[AnyPath]]:
    """Whether a data set is a path or pattern, or a list of paths with a tar file among them."""
    if are_files(dataset):
        return any(_ENDING.search(os.fspath(path)) for path in dataset)
    return isinstance(dataset, str | os.PathLike)


def open_shards(
    given: AnyPath | Sequence[AnyPath], split: str, image: str | None, label: str | None
) -> Rows:
    """List the images of shards, and read their labels.

    Args:
        given: A tar file, a folder of them, a pattern (``birds-{000..009}.tar``, ``birds-*.tar``), or a list of these.
        split: Its split, for messages.
        image: Ending of the images, which may have dots; ``None``: the first image of each key.
        label: Name of the label in ``.json``, or ``cls``; ``None``: the text of ``.cls``, else the first known name.

    Raises:
        UserError: A file is missing, compressed or damaged, there are no images, or none has the label that is named.
    """
    each = [given] if isinstance(given, str | os.PathLike) else given
    files = [file for pattern in each for file in _files(pattern, split)]
    members: list[Member] = []
    labels: list[Any] = []
    passed_over: PassedOver = {}
    for file in track(files, f"Listing the images of {split}", transient=True):
        for member, value in _samples(file, image, label, passed_over):
            members.append(member)
            labels.append(value)
    if not members:
        others = [f"{count:,} {reason}" for reason, (count, _) in passed_over.items()]
        there = f" (but {', '.join(others[:3])})" if others else ""
        raise UserError(
            f"No images in the {len(files)} shards of `{split}`, {files[0]}{there}: a member's name is a key and the "
            "ending of an image that Pillow reads, as 000123.jpg."
        )
    if label is not None and all(value is _ABSENT for value in labels):
        rest = f" (passed over: {', '.join(list(passed_over)[:3])})" if passed_over else ""
        raise UserError(
            f"No sample of the {len(files)} shards of `{split}`, {files[0]}, has the label {label!r}{rest}: "
            "`label_column` is a field of .json, or `cls`."
        )
    found = [None if value is _ABSENT else value for value in labels]
    return Rows(ShardSource(members, passed_over), found, has_columns=True)


def _files(pattern: AnyPath, split: str) -> Iterator[Path]:
    """Tar files that a path or a pattern names; those of a folder or of a ``*`` sorted."""
    text = str(expand(pattern, f"`{split}`"))
    for one in _expanded(text):
        path = Path(one)
        if path.is_dir():
            yield from _in_folder(path, split)
            continue
        found = [path] if path.is_file() else [Path(p) for p in sorted(glob.glob(one))]
        if not found:
            origin = f" (of {text})" if text != one else ""
            raise UserError(
                f"`{split}`: no such file: {path}{similar_path(path)}{origin}. Name a tar file on disk, a folder of "
                "them, a pattern (shards-{000..009}.tar, shards-*.tar), or a list of these."
            )
        yield from found


def _in_folder(folder: Path, split: str) -> list[Path]:
    """Tar files of a folder, sorted; if there are only compressed ones, these: they are refused when they are read."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    plain = [path for path in paths if path.suffix.lower() == ".tar"]
    found = plain or [path for path in paths if _ENDING.search(path.name)]
    if not found:
        raise UserError(
            f"`{split}`: no .tar files in {folder}. For a folder of images use FolderDataModule."
        )
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """Strings that a pattern with ranges in braces stands for; ``{000..009}`` has the width of its first number."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(first) > int(last):
        raise UserError(f"{pattern} names no file: {first} is above {last}.")
    start, end = pattern[: found.start()], pattern[found.end() :]
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{start}{number:0{len(first)}}{end}")


def _samples(
    shard: Path, image: str | None, label: str | None, passed_over: PassedOver
) -> list[tuple[Member, Any]]:
    """Image and label of each sample of a shard; what is passed over is counted."""

    def pass_over(reason: str, name: str) -> None:
        count, first = passed_over.get(reason, (0, name))
        passed_over[reason] = (count + 1, first)

    try:
        with shard.open("rb") as file:
            parts: dict[str, dict[str, tarfile.TarInfo]] = defaultdict(dict)
            for info in _members(file, shard):
                key, kind = _key_and_kind(info, image)
                if kind in ("image", "cls", "json") and kind not in parts[key]:
                    parts[key][kind] = info
                else:
                    again = kind in parts.get(key, {})
                    pass_over("further members of a key" if again else kind, info.name)
            samples = []
            for part in parts.values():
                if "image" not in part:
                    pass_over("keys without an image", next(iter(part.values())).name)
                    continue
                found = part["image"]
                member = Member(shard, found.name, found.offset_data, found.size)
                samples.append((member, _label(file, shard, part, label)))
            return samples
    except OSError as error:
        raise_file_error(shard, f"cannot be read: {error.strerror or error}")


def _members(file: BinaryIO, shard: Path) -> Iterator[tarfile.TarInfo]:
    """Members of a tar file that are not folders."""
    if file.read(6).startswith(_COMPRESSED):
        raise_file_error(
            shard, "it is compressed, and has no random access: unpack it to a .tar first"
        )
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
            for info in tar:
                if info.size < 0:  # the next member would be one before it, without end
                    raise ValueError(f"{info.name} has a negative size")
                if not info.isdir():
                    yield info
            file.seek(tar.offset)
    except _DAMAGED as error:
        raise_file_error(shard, f"not a tar file, or damaged: {error}")
    end = file.read(_BLOCK)
    if end != bytes(_BLOCK):  # `tarfile` takes a damaged header for the end
        reason = "its end is missing" if len(end) < _BLOCK else "a header is not valid"
        raise_file_error(shard, f"damaged at byte {file.tell() - len(end):,}: {reason}")


def _key_and_kind(info: tarfile.TarInfo, image: str | None) -> tuple[str, str]:
    """Key of a member, and ``image``, ``cls`` or ``json``; else why it is passed over."""
    folder, slash, name = info.name.rpartition("/")
    stem, dot, ending = name.partition(".")
    key, ending = folder + slash + stem, f"{dot}{ending.lower()}"
    if not info.isreg() or info.issparse():
        return key, "links and special files"
    if not stem:
        return key, "hidden"
    if ending in image_endings() if image is None else ending == f".{image.lower().lstrip('.')}":
        return key, "image"
    return key, ending[1:] if ending in (".cls", ".json") else ending or "no ending"


def _label(
    file: BinaryIO, shard: Path, part: dict[str, tarfile.TarInfo], column: str | None
) -> Any:
    """Label of a sample; ``None`` if it is unknown, ``_ABSENT`` if there is no place for one."""

    def text(info: tarfile.TarInfo) -> str:
        file.seek(info.offset_data)
        return file.read(info.size).decode("utf-8-sig")

    row: dict[str, Any] = {}
    info = next(iter(part.values()))
    try:
        if "json" in part and (column is not None or "cls" not in part):
            fields = json.loads(text(info := part["json"]))
            row |= fields if isinstance(fields, dict) else {}
        if "cls" in part:
            row["cls"] = _number_or_name(text(info := part["cls"]))
    except (ValueError, RecursionError) as error:
        raise_file_error(shard, f"{info.name} cannot be read: {error}")
    return label_of_row(row, column) if row else _ABSENT


def _number_or_name(text: str) -> int | str | None:
    """Content of a ``.cls``; ``None`` if it is empty."""
    text = text.strip()
    if re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        return int(text)
    return text or None
