"""Shards as webdataset writes them, of a folder of images."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

Part = tuple[str, bytes]


def png(red: int = 0) -> bytes:
    """A small image of one colour, as a file has it."""
    content = io.BytesIO()
    Image.new("RGB", (9, 6), (red, 90, 30)).save(content, "PNG")
    return content.getvalue()


PIXEL = png()


def write_shard(path: Path, members: Iterable[Part], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar file of names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(
    images: Path, pattern: Path, *, count: int = 2, label: str = "cls", names: bool = True
) -> Path:
    """Class folders as shards, whose samples are in the folder's order.

    Args:
        images: The class folders.
        pattern: Path of the shards, such as ``birds-{000..001}.tar``.
        count: Number of shards.
        label: ``cls``, or the field of ``.json`` with the label.
        names: Whether labels are names, not numbers.
    """
    files = sorted(images.glob("*/*.*"))
    classes = sorted({file.parent.name for file in files})
    shards: list[list[Part]] = [[] for _ in range(count)]
    for i, file in enumerate(files):
        name = file.parent.name
        value = name if names else classes.index(name)
        text = f"{value}\n" if label == "cls" else json.dumps({"width": 3, label: value})
        ending = ".cls" if label == "cls" else ".json"
        parts = [(f"{i:06}{ending}", text.encode()), (f"{i:06}{file.suffix}", file.read_bytes())]
        shards[i * count // len(files)] += parts
    for k, members in enumerate(shards):
        write_shard(pattern.with_name(f"{pattern.name.partition('{')[0]}{k:03}.tar"), members)
    return pattern
