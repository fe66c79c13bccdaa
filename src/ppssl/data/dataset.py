"""Samples and their order, as pure functions of numbers: a worker needs to know nothing but the key it is asked for."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from ppssl.data.source import UNREADABLE, ImageSource
from ppssl.data.transforms import MoCoV2Augmentation, apply_view
from ppssl.utils import randomness
from ppssl.utils.errors import UserError

__all__ = [
    "EpochLoader",
    "EpochSampler",
    "ImageDataset",
    "Request",
    "ViewDataset",
    "check_batch_size",
    "collate",
    "default_workers",
    "ignore_interrupt",
    "item_numbers",
    "load_readable",
]

Request = Callable[[Image.Image], Tensor]
"""Makes a tensor of the original RGB image, for a plugin."""


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Yields ``(epoch, number)``: the epoch travels with each key, so workers need not be told of it.

    The order is a permutation that depends on seed and epoch alone. Process r of R takes the r-th part of each global
    batch, so for any R a global batch holds the same images, and in rank order in the same order. What does not fill a
    global batch is left out.
    It is a ``DistributedSampler`` by name only: Lightning would wrap any other in one, and share the images out twice.

    Args:
        size: How many images there are.
        batch_size: Images a process and step.
        num_replicas: How many processes share them.
        rank: Which of them this one is.
        seed: The run's seed.
        used: How many images of the epoch this process has already used; asked at the start of each pass.
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
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = randomness.generator(self.seed, "order", self.epoch).permutation(self.size)
        batches = order[: len(self) * self.num_replicas].reshape(
            -1, self.num_replicas, self.batch_size
        )
        mine = batches[:, self.rank].ravel()
        return ((self.epoch, int(i)) for i in mine[self.used() :])

    def __len__(self) -> int:
        return self.size // (self.num_replicas * self.batch_size) * self.batch_size


class EpochLoader(DataLoader[Any]):
    """A loader that starts with the first batch asked for.

    Lightning makes the iterator of a resumed run before it tells the sampler the epoch; workers that run ahead would by
    then have begun with another epoch's order.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator in place of torch's own class
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where to go on follows from the Trainer's counters. That it exists tells Lightning so."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""


class ViewDataset(Dataset[dict[str, Any]]):
    """Two views of a training image, by ``(epoch, number)``."""

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
        image, i, broken = load_readable(self.source, range(len(self.source)), i)
        index = i + self.offset
        parameters = [
            self.augmentation.sample(
                self.seed, epoch, index, view, size=(image.height, image.width), view_size=self.size
            )
            for view in (0, 1)
        ]
        item = {
            "views": [apply_view(image, p, self.size) for p in parameters],
            "geometry": torch.stack([p.geometry() for p in parameters]),
            **item_numbers(self.source, i, index),
            "broken": broken,
        }
        return item | {name: make(image) for name, make in self.requests.items()}


class ImageDataset(Dataset[dict[str, Any]]):
    """Un-augmented images for evaluation, by position among ``items``."""

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
        if not 0 <= position < len(self):  # so that iterating over it ends
            raise IndexError(f"No image {position} among {len(self)}.")
        image, i, broken = load_readable(self.source, self.items, position)
        numbers = item_numbers(self.source, i, i + self.offset)
        return {"image": self.transform(image), **numbers, "broken": broken}


def check_batch_size(batch_size: int, processes: int, images: int, kind: str) -> None:
    """Raise :class:`UserError` where not even one global batch can be filled; ``kind`` says of which images."""
    total = batch_size * processes
    if images < total:
        shown = f"{batch_size} x {processes} processes = {total}" if processes > 1 else str(total)
        raise UserError(
            f"`batch_size` {shown} is larger than the data set of {images} {kind} images: lower `data.batch_size`."
        )


def default_workers() -> int:
    """Worker processes a loader: one less than there are cores for this process, at most 8."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min(8, max(cores - 1, 0))


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of items; what could not be read is listed under ``broken`` as (name, reason)."""
    broken = [entry for item in items for entry in item.pop("broken")]
    return default_collate(items) | {"broken": broken}


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches all processes: workers go on until the main one has finished its step and ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def load_readable(
    source: ImageSource, among: Sequence[int] | np.ndarray, position: int
) -> tuple[Image.Image, int, list[tuple[str, str]]]:
    """The image at a position among some, or the next one of them that can be read; its number; what could not be read.

    The substitute is one of them too: an image held out never gets into the gallery in a broken one's place.
    """
    broken: list[tuple[str, str]] = []
    for k in range(min(len(among), 100)):
        n = int(among[(position + k) % len(among)])
        try:
            return source.load(n), n, broken
        except UNREADABLE as error:
            broken.append((source.name(n), str(error).split("\n")[0].rstrip(".")))
    raise UserError(
        f"None of {len(broken)} images in a row can be read, the first: {broken[0][0]}: {broken[0][1]}."
    )


def item_numbers(source: ImageSource, i: int, index: int) -> dict[str, int]:
    """``index`` and ``label`` of image ``i``."""
    return {"index": index, "label": int(source.labels[i])}
