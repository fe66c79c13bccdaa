"""Datasets, the sampler and the data loader of the data modules.

The order and every sample are pure functions of seed, epoch and number, so workers keep no state.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from ppssl.data.source import UNREADABLE, ImageSource
from ppssl.data.transforms import LabelledAugmentation, MoCoV2Augmentation, apply_view
from ppssl.utils import randomness
from ppssl.utils.errors import UserError

__all__ = [
    "EpochLoader",
    "EpochSampler",
    "ImageDataset",
    "LabelledDataset",
    "Request",
    "ViewDataset",
    "check_batch_size",
    "collate",
    "default_workers",
    "item_numbers",
    "load_readable",
    "start_worker",
]

Request = Callable[[Image.Image], Tensor]
"""Function of a plugin that makes a tensor from the original RGB image."""


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Sampler of ``(epoch, number)`` keys, reproducible for any number of processes and from any batch on.

    The epoch is part of each key, so workers need no message when it changes.

    The order is a permutation that depends on seed and epoch alone. Process r of R takes the r-th part of each global
    batch, so a global batch holds the same images for any R, and in rank order in the same order. Images that do not
    fill a global batch are dropped.

    It subclasses ``DistributedSampler`` in name only: Lightning would wrap any other sampler in one, and distribute the
    images twice.

    Args:
        size: Number of images.
        batch_size: Per-device batch size.
        num_replicas: Number of processes.
        rank: Rank of this process.
        seed: The run's seed.
        used: Returns the number of images of the epoch that this process has already used; called at the start of each
            pass.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int = 1,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        used: Callable[[], int] = int,
    ) -> None:
        self.size, self.num_replicas, self.rank = size, num_replicas, rank
        self.batch_size, self.seed, self.used = batch_size, seed, used
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = randomness.generator(self.seed, "order", self.epoch).permutation(self.size)
        batches = order[: len(self) * self.num_replicas].reshape(
            -1, self.num_replicas, self.batch_size
        )
        rank_images = batches[:, self.rank].ravel()
        return ((self.epoch, int(i)) for i in rank_images[self.used() :])

    def __len__(self) -> int:
        return self.size // (self.num_replicas * self.batch_size) * self.batch_size


class EpochLoader(DataLoader[Any]):
    """Data loader whose workers start only when the first batch is requested.

    Lightning creates the iterator of a resumed run before it sets the sampler's epoch; workers that prefetch would
    already have started with the order of another epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator instead of torch's iterator
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty state: the position follows from the Trainer's counters; Lightning requires the method for resuming."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: there is no state, see :meth:`state_dict`."""


class ViewDataset(Dataset[dict[str, Any]]):
    """Two augmented views of each training image, accessed by ``(epoch, number)``."""

    def __init__(
        self,
        source: ImageSource,
        *,
        offset: int,
        augmentation: MoCoV2Augmentation,
        size: int,
        seed: int,
        requests: Mapping[str, Request],
    ) -> None:
        self.source, self.offset, self.augmentation = source, offset, augmentation
        self.size, self.seed, self.requests = size, seed, requests

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, i = key
        short_side = None if self.requests else self.augmentation.shortest_side(self.size)
        image, i, broken = load_readable(self.source, range(len(self.source)), i, short_side)
        index, pixels = i + self.offset, np.asarray(image)
        parameters = [
            self.augmentation.sample(
                self.seed, epoch, index, view, size=(image.height, image.width), view_size=self.size
            )
            for view in (0, 1)
        ]
        item = {
            "views": [apply_view(pixels, p, self.size) for p in parameters],
            "geometry": torch.stack([p.geometry() for p in parameters]),
            **item_numbers(self.source, i, index),
            "broken": broken,
        }
        return item | {name: make(image) for name, make in self.requests.items()}


class LabelledDataset(Dataset[dict[str, Any]]):
    """One augmented view of each labelled training image, accessed by ``(epoch, position in items)``."""

    def __init__(
        self,
        source: ImageSource,
        *,
        items: np.ndarray,
        offset: int,
        augmentation: LabelledAugmentation,
        size: int,
        seed: int,
    ) -> None:
        self.source, self.items, self.offset = source, items, offset
        self.augmentation, self.size, self.seed = augmentation, size, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, position = key
        image, i, broken = load_readable(self.source, self.items, position)
        index = i + self.offset
        view = self.augmentation.view(image, self.seed, epoch, index, self.size)
        return {"image": view, **item_numbers(self.source, i, index), "broken": broken}


class ImageDataset(Dataset[dict[str, Any]]):
    """Un-augmented images for evaluation, accessed by position in ``items``."""

    def __init__(
        self,
        source: ImageSource,
        *,
        items: np.ndarray,
        offset: int,
        transform: Request,
    ) -> None:
        self.source, self.items, self.offset = source, items, offset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < len(self):  # ends iteration over the dataset
            raise IndexError(f"No image {position} among {len(self)}.")
        image, i, broken = load_readable(self.source, self.items, position)
        numbers = item_numbers(self.source, i, i + self.offset)
        return {"image": self.transform(image), **numbers, "broken": broken}


def check_batch_size(batch_size: int, processes: int, images: int, kind: str) -> None:
    """Check that the images fill at least one global batch.

    Args:
        batch_size: Per-device batch size.
        processes: Number of processes.
        images: Number of images.
        kind: Kind of the images, for the message.

    Raises:
        UserError: The global batch is larger than the number of images.
    """
    total = batch_size * processes
    if images < total:
        size = f"{batch_size} x {processes} processes = {total}" if processes > 1 else str(total)
        raise UserError(
            f"`batch_size` {size} is larger than the data set of {images} {kind} images: lower `data.batch_size`."
        )


def default_workers() -> int:
    """Default number of workers per data loader: one less than this process's CPU cores, at most 8."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(8, max(cores - 1, 0))


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate items into a batch; unreadable images are listed under ``broken`` as (name, reason).

    Batches of images keep the memory format of the images, pixel by pixel (``torch.channels_last``).
    """
    broken = [entry for item in items for entry in item.pop("broken")]
    batch: dict[str, Any] = {}
    if "views" in items[0]:
        batch["views"] = [
            _stack(views) for views in zip(*(i.pop("views") for i in items), strict=True)
        ]
    if "image" in items[0]:
        batch["image"] = _stack([item.pop("image") for item in items])
    return batch | default_collate(items) | {"broken": broken}


def _stack(images: Sequence[Tensor]) -> Tensor:
    """Stack images ``(..., C, H, W)``: ``(B, ..., C, H, W)``, channels_last; in a worker in shared memory."""
    return default_collate([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


def start_worker(worker: int) -> None:
    """Ignore Ctrl-C in a worker: the main process receives it too, finishes its step and ends the workers.

    OpenCV gets one thread, as torch does in a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def load_readable(
    source: ImageSource,
    numbers: Sequence[int] | np.ndarray,
    position: int,
    short_side: int | None = None,
) -> tuple[Image.Image, int, list[tuple[str, str]]]:
    """Load the image at a position of a list of image numbers, or the next readable one of the list.

    The substitute is from the same list, so a held-out image never replaces an unreadable one in the gallery.

    Args:
        source: The images.
        numbers: Image numbers.
        position: Position in ``numbers``.
        short_side: Pixels that the short side needs at least; a larger image may be decoded at a reduced size.

    Returns:
        The image, its number, and the unreadable images before it as (name, reason).

    Raises:
        UserError: 100 images in a row, or all of them, are unreadable.
    """
    broken: list[tuple[str, str]] = []
    for k in range(min(len(numbers), 100)):
        number = int(numbers[(position + k) % len(numbers)])
        try:
            if short_side is None:
                return source.load(number), number, broken
            return source.load_reduced(number, short_side), number, broken
        except UNREADABLE as error:
            broken.append((source.name(number), str(error).split("\n")[0].rstrip(".")))
    raise UserError(
        f"None of {len(broken)} images in a row can be read; the first is {broken[0][0]}: {broken[0][1]}."
    )


def item_numbers(source: ImageSource, i: int, index: int) -> dict[str, int]:
    """Batch entries ``index`` and ``label`` of image ``i``."""
    return {"index": index, "label": int(source.labels[i])}
