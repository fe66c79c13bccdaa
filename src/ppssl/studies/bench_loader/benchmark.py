"""Images per second of our views and of other libraries, on one core and on all cores."""

import copy
import itertools
import time
from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
from rich.progress import track

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.loader import usable_cores
from ppssl.studies.bench_loader.pipelines import Pipeline, make_pipelines
from ppssl.studies.timing import median_ratios, single_thread, spread, time_rounds
from ppssl.utils.checks import check_pixels, check_range
from ppssl.utils.results import provenance

__all__ = ["bench_loader", "with_moco_v2_views"]

BASELINE = "torchvision"
OURS = "ppssl"
PREFETCHED = 2
"""Batches that a worker prepares ahead."""


def bench_loader(
    data: FineGrainedDataModule,
    image_size: int = 224,
    *,
    images: int = 64,
    repeats: int = 5,
    workers: int | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Measure images per second, two views of each, from the same files by different libraries.

    On one core all pipelines are timed in turns in this process, with one thread for torch and OpenCV: each round takes
    the same images through every pipeline, in rotated order, after one warm-up round. Ratios are computed within a
    round, so a machine that slows down affects both rates. On all cores our own loader is timed with worker processes,
    once these are busy.

    Args:
        data: Data module whose training images are read; its augmentation is not used, but MoCo v2's.
        image_size: Height and width of the views in pixels.
        images: Number of images per round, spread over the data set.
        repeats: Number of rounds.
        workers: Worker processes of the measurement on all cores; ``None``: one per core; 0: without it.
        batch_size: Batch size of the workers.

    Returns:
        ``images_per_second`` (median, min and max) by pipeline, see
        :func:`~ppssl.studies.bench_loader.pipelines.make_pipelines`; ``ratios`` by ``<pipeline>/torchvision`` and, with
        lightly, ``ppssl/lightly``; ``all_cores``: workers and images per second of ours; ``original_size``: median
        width and height of the images in pixels, squashed if they are; the arguments, and the provenance.

    Raises:
        UserError: There are no images, or one cannot be read.
    """
    check_pixels(image_size=image_size)
    check_range(">= 1", images=images, repeats=repeats)
    check_range(">= 1", batch_size=batch_size)
    check_range(">= 0", workers=workers)
    data = with_moco_v2_views(data, image_size)
    numbers, sizes = _read_images(data, images)
    with single_thread():
        pipelines = make_pipelines(data)
        tasks = {name: partial(_rate, make, numbers) for name, make in pipelines.items()}
        rates = time_rounds(tasks, repeats)
    workers = usable_cores() if workers is None else workers
    return {
        "schema_version": 1,
        "arguments": {"image_size": image_size, "images": len(numbers), "repeats": repeats},
        "units": {"images_per_second": "1/s", "ratios": "1"},
        "original_size": np.median(np.array(sizes), axis=0).tolist(),
        "images_per_second": spread(rates),
        "ratios": _ratios(rates),
        "all_cores": _all_cores(data, workers, batch_size, repeats) if workers else None,
        "provenance": provenance(),
    }


def with_moco_v2_views(data: FineGrainedDataModule, image_size: int) -> FineGrainedDataModule:
    """Copy of a data module, set up, with MoCo v2's augmentation and a size of the views, in batches of one image."""
    data.setup()
    data = copy.copy(data)
    data.augmentation = None
    data.image_size, data.batch_size, data.num_workers = image_size, 1, 0
    return data


def _ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Ratios to torchvision's chain, and of ours to lightly's if it is installed."""
    ratios = median_ratios(rates, BASELINE)
    if "lightly" in rates:
        ratios |= median_ratios({name: rates[name] for name in (OURS, "lightly")}, "lightly")
    return ratios


def _read_images(
    data: FineGrainedDataModule, images: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Read images spread over the data set, so that none is unreadable or still on a disk when it is timed.

    Returns:
        Their numbers, and width and height of each in pixels.
    """
    source = data.sources["train"]
    count = min(images, len(source))
    numbers = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    return numbers, [source.read(i).size for i in track(numbers, "Reading")]


def _rate(pipeline: Pipeline, numbers: list[int]) -> float:
    """Images per second of one pass over the images."""
    started = time.perf_counter()
    for i in numbers:
        pipeline(i)
    return len(numbers) / (time.perf_counter() - started)


def _all_cores(
    data: FineGrainedDataModule, workers: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    """Images per second of our loader with worker processes, over rounds after their start."""
    data = copy.copy(data)
    data.batch_size, data.num_workers = min(batch_size, data.num_train), workers
    batches = _endless_batches(data)
    in_flight = PREFETCHED * workers
    next(itertools.islice(batches, in_flight, None))
    rates = []
    for _ in track(range(repeats), f"All cores, workers: {workers}"):
        started = time.perf_counter()
        count = sum(len(batch["index"]) for batch in itertools.islice(batches, in_flight))
        rates.append(count / (time.perf_counter() - started))
    batches.close()
    rates_of_ours = spread({OURS: rates})[OURS]
    return {"workers": workers, "batch_size": data.batch_size, "images_per_second": rates_of_ours}


def _endless_batches(data: FineGrainedDataModule) -> Generator[Any]:
    """Training batches, one epoch after the other."""
    loader = data.train_dataloader(epoch=0)
    while True:
        for batch in loader:
            yield data.on_before_batch_transfer(batch, 0)
