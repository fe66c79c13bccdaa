"""Rendering of one image of a synthetic bird and its masks: background, bird, twigs in front of it, light."""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import numpy as np
from PIL import Image, ImageDraw

from ppssl.data.synthetic.backgrounds import BACKGROUNDS, draw_scene, pixel_grid, rgb
from ppssl.data.synthetic.classes import PARTS, BirdClass
from ppssl.data.synthetic.parts import Colour, Palette, Stroke, bird_strokes

__all__ = ["BACKGROUNDS", "NUISANCES", "Nuisance", "draw_nuisance", "render_image", "render_masks"]

# Few scenes and few body colours, shared by many birds of every class: strong nuisance variation that does not identify
# an image. (With a different scene for each image MoCo v2 learns the scenes, not the birds.)
_BACKGROUND_HUES = 2
_BODY_HUES = 3
_MAX_TWIGS = 3
_HALF_BIRD = 0.56  # half of the largest bird's length, in its own frame
_CENTRE = np.array([-0.03, -0.04])  # point of the bird's frame in the middle of the image


@dataclass(frozen=True)
class Nuisance:
    """Nuisance values of one image, which are independent of the class.

    Attributes:
        background: Index into :data:`BACKGROUNDS`.
        background_hue: In turns, one of two.
        background_value: Brightness, 0.55 to 0.75.
        body_hue: In turns, one of three.
        body_saturation: 0.05 to 0.22.
        body_value: Brightness, 0.66 to 0.82.
        scale: Size of the bird's frame relative to the image.
        tilt: Rotation of the bird in radians, positive clockwise.
        head_pitch: Rotation of its head in radians, positive clockwise.
        stretch: Height over length relative to the plain bird, as if turned towards or away from the camera.
        shift_x: Shift to the right, as a fraction of the image.
        shift_y: Shift downwards, as a fraction of the image.
        flip: 1 if the bird looks to the left, else 0.
        light: Factor of the brightness.
        light_slope: Strength of the brightness gradient across the image.
        light_angle: Direction of that gradient in radians.
        warmth: Colour of the light, negative bluish, positive reddish.
        twigs: Number of twigs in front of the bird.
    """

    background: float
    background_hue: float
    background_value: float
    body_hue: float
    body_saturation: float
    body_value: float
    scale: float
    tilt: float
    head_pitch: float
    stretch: float
    shift_x: float
    shift_y: float
    flip: float
    light: float
    light_slope: float
    light_angle: float
    warmth: float
    twigs: float

    def values(self) -> tuple[float, ...]:
        """All values, in the order of :data:`NUISANCES`."""
        return astuple(self)


NUISANCES = tuple(f.name for f in fields(Nuisance))
"""Names of the nuisance values, in their order."""


def draw_nuisance(rng: np.random.Generator) -> Nuisance:
    """Draw random nuisance values; the bird lies within the image, except rarely for the tip of a part."""
    scale = rng.uniform(0.72, 0.9)
    slack = max(0.0, 0.5 - _HALF_BIRD * scale) + 0.01
    return Nuisance(
        background=float(rng.integers(len(BACKGROUNDS))),
        background_hue=rng.integers(_BACKGROUND_HUES) / _BACKGROUND_HUES,
        background_value=rng.uniform(0.55, 0.75),
        body_hue=rng.integers(_BODY_HUES) / _BODY_HUES,
        body_saturation=rng.uniform(0.05, 0.22),
        body_value=rng.uniform(0.66, 0.82),
        scale=scale,
        tilt=rng.uniform(-0.25, 0.25),
        head_pitch=rng.uniform(-0.15, 0.15),
        stretch=rng.uniform(0.88, 1.12),
        shift_x=rng.uniform(-slack, slack),
        shift_y=rng.uniform(-slack, slack),
        flip=float(rng.integers(2)),
        light=rng.uniform(0.85, 1.12),
        light_slope=rng.uniform(0.0, 0.12),
        light_angle=rng.uniform(0, 2 * math.pi),
        warmth=rng.uniform(-0.05, 0.05),
        twigs=float(rng.choice(_MAX_TWIGS + 1, p=(0.6, 0.25, 0.1, 0.05))),
    )


def render_image(
    bird: BirdClass, nuisance: Nuisance, rng: np.random.Generator, size: int
) -> np.ndarray:
    """Render the image, ``(size, size, 3)`` uint8.

    Args:
        bird: Class of the bird.
        nuisance: Nuisance values.
        rng: Generator of the grain of the background and the course of the twigs.
        size: Width and height in pixels.
    """
    twigs = _twigs(nuisance, rng, size)
    canvas = Image.fromarray(_background(nuisance, rng, size)).resize(
        (2 * size, 2 * size), Image.Resampling.BILINEAR
    )
    draw = ImageDraw.Draw(canvas)
    for stroke in _bird(bird, nuisance, size) + twigs:
        _draw_stroke(draw, stroke, stroke.fill)
    pixels = np.asarray(canvas.reduce(2), dtype=np.float32) * _light(nuisance, size)
    pixels += rng.normal(0, 3, (size, size, 1)).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def render_masks(
    bird: BirdClass, nuisance: Nuisance, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Render the masks of the image that :func:`render_image` makes from equal arguments.

    Returns:
        The visible pixels of each part, ``(P, size, size)`` bool in the order of ``PARTS``, and the pixels of the whole
        bird, including those behind twigs, ``(size, size)`` bool. A pixel counts if at least half of it is covered.
    """
    twigs = _twigs(nuisance, rng, size)
    canvas = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(canvas)
    for stroke in _bird(bird, nuisance, size):
        _draw_stroke(draw, stroke, stroke.part)
    whole = _at_least_half(np.asarray(canvas) > 0)
    for stroke in twigs:
        _draw_stroke(draw, stroke, 0)
    visible = np.asarray(canvas)
    return np.stack([_at_least_half(visible == k + 1) for k in range(len(PARTS))]), whole


def _bird(bird: BirdClass, nuisance: Nuisance, size: int) -> list[Stroke]:
    line = max(1, round(size / 64))
    return bird_strokes(
        bird,
        _palette(nuisance),
        _placing(nuisance, size),
        head_pitch=nuisance.head_pitch,
        line=line,
    )


def _placing(nuisance: Nuisance, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Map from the bird's frame to the pixels of a canvas twice as large as the image."""
    cos, sin = math.cos(nuisance.tilt), math.sin(nuisance.tilt)
    mirror = -1.0 if nuisance.flip else 1.0
    matrix = (
        np.diag([1.0, nuisance.stretch])
        @ np.array([[cos, sin], [-sin, cos]])
        @ np.diag([mirror, 1.0])
    )
    matrix = matrix * (2 * size * nuisance.scale)
    offset = 2 * size * (np.array([nuisance.shift_x, nuisance.shift_y]) + 0.5) - _CENTRE @ matrix
    return lambda points: points @ matrix + offset


def _palette(nuisance: Nuisance) -> Palette:
    hue, saturation, value = nuisance.body_hue, nuisance.body_saturation, nuisance.body_value
    return Palette(
        body=rgb(hue, saturation, value),
        belly=rgb(hue + 0.03, 0.45 * saturation, min(1.0, value * 1.18)),
        wing=rgb(hue, saturation, 0.55 * value),
    )


def _twigs(nuisance: Nuisance, rng: np.random.Generator, size: int) -> list[Stroke]:
    """Bent lines across the image, each with a leaf; the number of random draws is constant."""
    draws = rng.random((_MAX_TWIGS, 10))[: int(nuisance.twigs)]
    return [stroke for row in draws.tolist() for stroke in _twig(row, size)]


def _twig(draws: list[float], size: int) -> list[Stroke]:
    turn, shade, side, middle_x, middle_y, hue, width, place, leaf_turn, leaf_hue = draws
    angle, value = 2 * math.pi * turn, 0.3 + 0.4 * shade
    across = np.array([math.cos(angle), math.sin(angle)])
    beside = np.array([-across[1], across[0]]) * (0.7 * side - 0.35)
    middle = beside + 0.3 * (np.array([middle_x, middle_y]) - 0.5)
    t = np.linspace(0, 1, 12)[:, None]
    curve = (
        (1 - t) ** 2 * (beside - 0.8 * across)
        + 2 * t * (1 - t) * middle
        + t**2 * (beside + 0.8 * across)
    )
    curve = (curve + 0.5) * 2 * size
    leaf = _leaf(curve[3 + int(6 * place)], 2 * math.pi * leaf_turn, 0.2 * size)
    return [
        Stroke(curve, rgb(0.07 + 0.06 * hue, 0.5, value), 0, round(size * (0.035 + 0.025 * width))),
        Stroke(leaf, rgb(0.2 + 0.2 * leaf_hue, 0.6, value + 0.1), 0),
    ]


def _leaf(stem: np.ndarray, angle: float, length: float) -> np.ndarray:
    t = np.linspace(0, 1, 7)
    half = 0.22 * np.sin(math.pi * t)
    outline = np.concatenate([np.stack([t, half], 1), np.stack([t, -half], 1)[-2:0:-1]]) * length
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return outline @ turn + stem


def _background(nuisance: Nuisance, rng: np.random.Generator, size: int) -> np.ndarray:
    """Random window of the scene with the nuisance's brightness, ``(size, size, 3)`` uint8."""
    x, y = rng.integers(0, size + 1, 2)
    scene = draw_scene(int(nuisance.background), nuisance.background_hue, size)[
        y : y + size, x : x + size
    ]
    return np.clip(nuisance.background_value * scene, 0, 255).astype(np.uint8)


def _light(nuisance: Nuisance, size: int) -> np.ndarray:
    """Brightness factor of every pixel, ``(size, size, 3)`` float32."""
    x, y = pixel_grid(size)
    along = (x - 0.5) * math.cos(nuisance.light_angle) + (y - 0.5) * math.sin(nuisance.light_angle)
    tint = np.array([1 + nuisance.warmth, 1.0, 1 - nuisance.warmth], dtype=np.float32)
    return (nuisance.light * (1 + 2 * nuisance.light_slope * along))[..., None] * tint


def _draw_stroke(draw: ImageDraw.ImageDraw, stroke: Stroke, fill: Colour | int) -> None:
    points = stroke.points.ravel().tolist()
    if stroke.width:
        draw.line(
            points, fill=fill, width=stroke.width, joint="curve" if stroke.width > 3 else None
        )
    else:
        draw.polygon(points, fill=fill)


def _at_least_half(fine: np.ndarray) -> np.ndarray:
    """Halve a mask's resolution, ``(2 S, 2 S)`` to ``(S, S)`` bool: a pixel counts if half of it is covered."""
    size = len(fine) // 2
    return fine.reshape(size, 2, size, 2).sum((1, 3)) >= 2
