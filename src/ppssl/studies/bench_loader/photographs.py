"""Photograph-like JPEG files, for benchmarks without a data set."""

from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image

from ppssl.utils.checks import check_range
from ppssl.utils.errors import UserError

__all__ = ["parse_size", "write_photographs"]

DIFFERENT = 32
"""Number of different images; more are rotated copies of these."""
SCALES = (2, 8, 32, 128)
"""Cell sizes in pixels of the noise that an image is the mean of."""


def parse_size(text: str) -> tuple[int, int]:
    """Parse width and height such as ``500x375``.

    Raises:
        UserError: The text is no size.
    """
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UserError(f"`make` must be WIDTHxHEIGHT in pixels, such as 500x375, got {text!r}.")
    return int(width), int(height)


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write JPEG files with the spectrum and file size of photographs: noise of several scales.

    Args:
        folder: The new folder.
        count: Number of files.
        size: Width and height in pixels.
    """
    check_range(">= 1", count=count, width=size[0], height=size[1])
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = [_noise(rng, size) for _ in range(min(count, DIFFERENT))]
    with ThreadPool() as pool:
        pool.map(partial(_write, folder, images), range(count))


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    width, height = size
    pixels = np.zeros((height, width, 3))
    for scale in SCALES:
        cells = rng.uniform(0, 255, (-(-height // scale), -(-width // scale), 3)).astype(np.uint8)
        enlarged = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
        pixels += np.asarray(enlarged) / len(SCALES)
    return Image.fromarray(pixels.astype(np.uint8))


def _write(folder: Path, images: list[Image.Image], i: int) -> None:
    images[i % len(images)].rotate(i // len(images) % 7).save(folder / f"{i:05d}.jpg")
