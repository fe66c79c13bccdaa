"""Loaders of the data modules: the order of the images, batches, and worker processes.

The order is a function of seed and epoch, so the number of workers does not matter and there is no state to save.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from ppssl.data.own_views import check_equal
from ppssl.utils import randomness
from ppssl.utils.errors import UserError

__all__ = [
    "EpochLoader",
    "EpochSampler",
    "ImageLoader",
    "check_batch_size",
    "collate",
    "default_workers",
    "make_loader",
    "usable_cores",
]


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


class ImageLoader(DataLoader[Any]):
    """Data loader whose workers start only when the first batch is requested, and raise user errors as one line.

    Lightning creates the iterator of a resumed run before it sets the sampler's epoch; workers that prefetch would
    already have started with the order of another epoch. A worker's error comes with the text of its traceback as
    message, in which the line of a :class:`~ppssl.utils.errors.UserError` is the last.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator instead of torch's iterator
        try:
            yield from super().__iter__()
        except UserError as error:
            _, of_worker, line = str(error).rpartition(f"\n{UserError.__module__}.UserError: ")
            if not of_worker:
                raise
            raise UserError(line.strip()) from error


class EpochLoader(ImageLoader):
    """Data loader of training, which is resumed without a state."""

    def state_dict(self) -> dict[str, Any]:
        """Empty state: the position follows from the Trainer's counters; Lightning requires the method for resuming."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: there is no state, see :meth:`state_dict`."""


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    workers: int,
    prefetch_factor: int | None,
    sampler: EpochSampler | None = None,
) -> DataLoader[Any]:
    """Create a loader; with a sampler it drops an incomplete last batch, without it serves all images in order.

    Args:
        dataset: The data set.
        batch_size: Images per batch.
        workers: Worker processes; 0: batches are made in the main process.
        prefetch_factor: Batches that each worker makes in advance; ``None``: 2.
        sampler: The order of the images.
    """
    loader_class = ImageLoader if sampler is None else EpochLoader
    return loader_class(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=sampler is not None,
        num_workers=workers,
        prefetch_factor=prefetch_factor if workers > 0 else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
        worker_init_fn=_start_worker,
    )


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


def default_workers(processes: int = 1) -> int:
    """Default number of workers per data loader: this process's share of the CPU cores but one, at most 16.

    16 cores make about 5,000 images a second with two views each of 224 pixels (docs/how-to/benchmarks.md), more than
    the fastest GPU trains on, and the loaders of training and validation have as many each.

    Args:
        processes: Number of training processes on this machine.
    """
    return min(16, max(usable_cores() // processes - 1, 0))


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate items into a batch; unreadable images are listed under ``broken`` as (name, reason).

    Batches of images keep the memory format of the images, pixel by pixel (``torch.channels_last``).

    Raises:
        UserError: The images have different numbers or sizes of views.
    """
    broken = [entry for item in items for entry in item.pop("broken")]
    batch: dict[str, Any] = {}
    if "views" in items[0]:
        views = [item.pop("views") for item in items]
        check_equal(views)
        batch["views"] = [_stack(of_all) for of_all in zip(*views, strict=True)]
    if "image" in items[0]:
        batch["image"] = _stack([item.pop("image") for item in items])
    return batch | default_collate(items) | {"broken": broken}


def _stack(images: Sequence[Tensor]) -> Tensor:
    """Stack images ``(..., C, H, W)``: ``(B, ..., C, H, W)``, channels_last; in a worker in shared memory."""
    return default_collate([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


def _start_worker(worker: int) -> None:
    """Ignore Ctrl-C in a worker: the main process receives it too, finishes its step and ends the workers.

    OpenCV gets one thread, as torch does in a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
