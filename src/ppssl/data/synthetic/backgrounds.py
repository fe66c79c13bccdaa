"""Background scenes of the synthetic birds: six kinds of texture, in few hues."""

import colorsys
import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from ppssl.data.synthetic.parts import Colour
from ppssl.utils.randomness import generator

__all__ = ["BACKGROUNDS", "draw_scene", "pixel_grid", "rgb"]

BACKGROUNDS = ("meadow", "foliage", "reeds", "water", "bokeh", "sky")
"""Kinds of background; the nuisance value ``background`` is an index of this tuple."""


@lru_cache(maxsize=64)
def draw_scene(kind: int, hue: float, size: int) -> np.ndarray:
    """Draw a scene, ``(2 size, 2 size, 3)`` float32: two colours mixed by the kind's texture, equal for all birds."""
    rng = generator(0, "bird-scene", kind)
    hues, saturations = hue + rng.uniform(-0.35, 0.35, 3), rng.uniform(0.04, 0.2, 3)
    dark, bright, third = (
        np.array(rgb(h, s, v), dtype=np.float32)
        for h, s, v in zip(hues, saturations, (0.55, 1.0, 0.78), strict=True)
    )
    wide = 2 * size
    mix = _TEXTURES[kind](rng, wide)
    mix = np.clip(mix + 0.25 * (_noise(rng, wide, 48) - 0.5), 0, 1)
    patch = np.clip(3 * _noise(rng, wide, 8) - 1, 0, 1)[..., None]
    bright = bright + patch * (third - bright)
    return dark + mix[..., None] * (bright - dark)


def _meadow(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.6 * _noise(rng, size, 10) + 0.4 * _noise(rng, size, 28)


def _foliage(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.clip(4 * (_noise(rng, size, 18) - 0.5) + 0.5, 0, 1)


def _reeds(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = pixel_grid(size)
    slant, bend = rng.uniform(-0.6, 0.6), 0.15 * _noise(rng, size, 6)
    return 0.5 + 0.5 * np.sin(2 * math.pi * rng.uniform(10, 22) * (x + slant * y + bend))


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = pixel_grid(size)
    waves = rng.uniform((-8, 6, 0), (8, 20, 1), (3, 3))
    return 0.5 + sum(np.sin(2 * math.pi * (fx * x + fy * y + phase)) for fx, fy, phase in waves) / 6


def _bokeh(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Image.new("L", (size, size), 40)
    draw = ImageDraw.Draw(canvas)
    circles = rng.uniform((0, 0, 0.02, 60), (1, 1, 0.08, 255), (64, 4)) * (size, size, size, 1)
    for x, y, radius, shade in circles:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(shade))
    return np.asarray(canvas, dtype=np.float32) / 255


def _sky(rng: np.random.Generator, size: int) -> np.ndarray:
    y = pixel_grid(size)[1]
    return 0.6 * (rng.uniform(0.0, 0.4) + 0.6 * y) + np.clip(2 * _noise(rng, size, 8) - 0.9, 0, 1)


_TEXTURES = (_meadow, _foliage, _reeds, _water, _bokeh, _sky)


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1] on a grid of ``cells`` by ``cells``, ``(size, size)`` float32."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixel centres in [0, 1]: x ``(1, size)`` and y ``(size, 1)`` float32."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


def rgb(hue: float, saturation: float, value: float) -> Colour:
    """Convert hue (in turns), saturation and value in [0, 1] to RGB from 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
