"""Image bank: the teacher's embeddings of all training images, computed once (:ref:`D7 <d7>`).

A file is identified by the teacher's name and the data's fingerprint; if it exists, neither the teacher nor a network
is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from ppssl.text.bank_file import RowWriter, obtain
from ppssl.text.fixed_crops import FixedCrops
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher, teacher_fingerprint, teacher_name
from ppssl.utils.paths import AnyPath, cache_folder, expand
from ppssl.utils.results import provenance

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["ImageBank", "bank_folder", "files_of_teacher", "open_image_bank", "open_images"]

_SAVE_SECONDS = 10.0

_ON_DEVICE = 2**30
"""Largest bank, in bytes, that is copied to the device; with a larger one each step waits for the host."""


@dataclass
class ImageBank:
    """Teacher embeddings of the training images.

    Attributes:
        images: v, ``(N, k, e)`` float16, by number within the training images; rows of unreadable images are 0. On the
            CPU, memory-mapped by default; from its first use on an accelerator on there, if it is small enough.
        mean: Mean of v, ``(e,)`` float32, on the device of ``images``.
        first_index: Index of the first row in the full data set.
    """

    images: Tensor
    mean: Tensor
    first_index: int

    def lookup(self, index: Tensor) -> Tensor:
        """Embeddings of images by their index ``(B,)`` in the full data set: ``(B, k, e)`` float32."""
        moves = index.device not in (self.images.device, torch.device("cpu"))
        if moves and self.images.nbytes <= _ON_DEVICE:
            self.images = self.images.to(index.device)
            self.mean = self.mean.to(index.device)
        return self.images[index.to(self.images.device) - self.first_index].float()


def bank_folder(folder: AnyPath | None = None) -> Path:
    """Folder of the banks: ``folder``, else ``$PPSSL_CACHE/banks``, else ``~/.cache/ppssl/banks``."""
    if folder is not None:
        return expand(folder)
    return cache_folder() / "banks"


def open_image_bank(
    teacher: AnyPath | Teacher,
    data: FineGrainedDataModule,
    *,
    views: int = 1,
    folder: AnyPath | None = None,
    memory_map: bool = True,
    device: torch.device | str = "cpu",
) -> ImageBank:
    """Open the bank of a teacher and a data set, without texts; see :func:`ppssl.text.bank.open_bank`."""
    home, manifest, get_teacher = files_of_teacher(teacher, folder, device)
    images, mean = open_images(home, manifest, get_teacher, data, views)
    images = images if memory_map else images.clone()
    if isinstance(teacher, Teacher):
        teacher.to("cpu")  # its memory is the training's now
    return ImageBank(images, mean, data.offset("train"))


def files_of_teacher(
    teacher: AnyPath | Teacher, folder: AnyPath | None, device: torch.device | str
) -> tuple[Path, dict[str, Any], Callable[[], Teacher]]:
    """Folder of a teacher's banks, what their manifests must say, and a function that loads the teacher once.

    Loading may download its files: what the manifests must say is known afterwards.
    """
    name = teacher_name(teacher)
    manifest = {"teacher": name, "teacher_hash": teacher_fingerprint(teacher)}

    @cache
    def get_teacher() -> Teacher:
        loaded = load_teacher(teacher).to(device)
        _ = loaded.dim  # a teacher that loads its model when it is used does so now
        manifest["teacher_hash"] = teacher_fingerprint(teacher)
        return loaded

    return bank_folder(folder) / _slug(name), manifest, get_teacher


def open_images(
    home: Path,
    manifest: dict[str, Any],
    get_teacher: Callable[[], Teacher],
    data: FineGrainedDataModule,
    views: int,
) -> tuple[Tensor, Tensor]:
    """Image embeddings of the training images and their mean."""
    fingerprint = data.sources["train"].served()
    own = {"data_fingerprint": fingerprint, "views": views, "images": data.num_train}
    expected = ChainMap(own, manifest)
    suffix = "" if views == 1 else f"-{views}-views"
    path = home / f"images-{fingerprint}{suffix}.npy"

    def make() -> None:
        teacher = get_teacher()
        written = dict(expected) | {"made_with": provenance()["versions"]}
        writer = RowWriter(path, (data.num_train, views, teacher.dim), "float16", written)
        _embed_images(teacher, data, views, writer)
        writer.commit()

    rows, mean, _ = obtain(path, expected, make)
    return rows, mean


def _embed_images(
    teacher: Teacher, data: FineGrainedDataModule, views: int, writer: RowWriter
) -> None:
    """Embed the training images that the writer does not have yet."""
    items = np.arange(writer.done, data.num_train)
    loader = data.eval_loader("train", items, FixedCrops(teacher.transform, views))
    first, saved = data.offset("train"), monotonic()
    with Progress(transient=True) as progress:
        task = progress.add_task(
            f"{teacher.name} embeds the images", total=data.num_train, completed=writer.done
        )
        try:
            for cpu_batch in loader:
                batch = data.on_before_batch_transfer(cpu_batch, 0)
                pixels: Tensor = batch["image"]  # (B, k, 3, H, W)
                v = teacher.embed_images(pixels.flatten(0, 1)).unflatten(0, (-1, views)).cpu()
                numbers = torch.arange(writer.done, writer.done + len(v))
                v[batch["index"] != numbers + first] = 0  # a substitute for an unreadable image
                writer.write(v)
                progress.update(task, completed=writer.done)
                if monotonic() - saved > _SAVE_SECONDS:
                    writer.save()
                    saved = monotonic()
        finally:
            if writer.done < data.num_train:
                writer.save()


def _slug(name: str) -> str:
    """Folder name of a teacher, unique by a hash."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")[-60:]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
