"""Outlines of the parts of a synthetic bird, and their composition to drawing strokes.

A bird looks to the right, in a frame of about one unit with y downwards. Part outlines are hand-made: control points of
a smooth curve, or polygons. Nothing here is random: a bird is a function of its class and its nuisance values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ppssl.data.synthetic.classes import PARTS, BirdClass

__all__ = ["BODY", "Colour", "Palette", "Stroke", "bird_strokes"]

Colour = tuple[int, int, int]

BODY = len(PARTS) + 1
"""Mask value of the body; part ``p`` has the value ``p + 1``, and the background has 0."""

# Points "x,y x,y ..." as in SVG, in hundredths of the bird's frame. Beaks and tails start at their base (0, 0) and
# point to the right; all other parts have their position on the bird.
_SMOOTH = {
    "body": "16,-16 24,-2 27,9 19,21 5,27.5 -12,25 -26,18.5 -31,12 -29,5 -17,-3 -3,-10 5,-20",
    "belly": "23,1 24,9 17,19 4,24.5 -10,23 -4,15 8,9 16,2",
    "wing": "11,-7 17,3 12,13 -4,18 -22,19 -40,17.5 -26,7 -12,-2 2,-8",
    "crest curled": "15,-27 11,-37 16,-47 27,-51 37,-47 39,-38 32,-34 27,-38 30,-42 25,-43 21,-38 24,-28",
}
_CORNERS = {
    "beak dagger": "-3,-6 10,-4.5 26,0.5 10,4.5 -3,6",
    "beak cone": "-3,-11 4,-9.5 14,1 4,9.5 -3,11",
    "beak hooked": "-3,-9 8,-9 15,-5.5 19,1.5 18,14 12.5,5.5 6,7 -3,9",
    "beak curved": "-3,-6 6,-6 15,-3 22,5 24.5,17 17,10 11,6 5,5 -3,6.5",
    "crest pointed": "30,-26 24,-34 13,-41 -3,-49 3,-36 6,-21 18,-18",
    "crest fan": "32,-26 37,-39 29,-35 28,-49 20,-39 13,-50 10,-38 0,-45 3,-32 -5,-32 5,-18 20,-18",
    "tail square": "-4,-6 17,-9 17,9 -4,6.5",
    "tail forked": "-4,-6 10,-9 29,-19 14,0 29,19 10,9 -4,6.5",
    "tail pointed": "-4,-6 12,-7 33,0 12,7 -4,6",
    "tail fan": "-4,-5 12,-21 18,-16 22,-8 23.5,0 22,8 18,16 12,21 -4,5",
    "leg front": "5,25 6,37 10,38",
    "leg back": "-4,25 -4,37 0,38",
    "bar front": "3.5,-6.5 10,-5 8,14 0,15.5",
    "bar back": "-13,0 -6.5,-3.5 -7,16.5 -15.5,17.5",
}
_SPOTS = ((7, 0), (5, 9), (-3, 1), (-6, 11), (-14, 5), (-18, 13))
_HEAD, _HEAD_RADIUS = (19.0, -17.0), 15.0
_EYE, _EYE_RADIUS, _RING_RADIUS = (23.0, -19.5), 4.0, 7.6
_BEAK_BASE, _TAIL_BASE, _TAIL_ANGLE = (33.0, -16.0), (-28.0, 9.0), math.pi - 0.32
_NECK = (12.0, -10.0)

_TAIL_COLOURS: dict[str, Colour] = {
    "square": (238, 196, 60),
    "forked": (40, 40, 46),
    "pointed": (60, 110, 205),
    "fan": (244, 240, 230),
}
_CREST_COLOURS: dict[str, Colour] = {
    "pointed": (205, 40, 36),
    "fan": (246, 204, 50),
    "curled": (40, 38, 44),
}
_DARK: Colour = (28, 24, 26)
_WHITE: Colour = (246, 244, 236)
_BEAK_COLOURS: dict[str, Colour] = {
    "red": (205, 38, 34),
    "yellow": (247, 204, 44),
    "black": (38, 36, 42),
    "blue": (46, 98, 205),
}
_RING_COLOURS: dict[str, Colour] = {"white": _WHITE, "red": (214, 44, 36)}


@dataclass(frozen=True)
class Palette:
    """Colours of one bird that do not depend on its class."""

    body: Colour
    belly: Colour
    wing: Colour


@dataclass(frozen=True)
class Stroke:
    """Filled outline or line of one part of the bird.

    Attributes:
        points: ``(K, 2)`` in pixels.
        fill: RGB, each 0 to 255.
        part: Mask value of its part, see :data:`BODY`.
        width: Line width in pixels; 0 fills the outline instead.
    """

    points: np.ndarray
    fill: Colour
    part: int
    width: int = 0


def bird_strokes(
    bird: BirdClass,
    palette: Palette,
    place: Callable[[np.ndarray], np.ndarray],
    *,
    head_pitch: float,
    line: int,
) -> list[Stroke]:
    """Strokes of one bird, from back to front.

    Args:
        bird: Class of the bird.
        palette: Colours that do not depend on the class.
        place: Maps points of the bird's frame to pixels, ``(K, 2)`` to ``(K, 2)``.
        head_pitch: Rotation of the head about the neck in radians, positive downwards.
        line: Width of the contours, in pixels.
    """
    rotate = _rotation(head_pitch, _NECK)

    def head(points: np.ndarray) -> np.ndarray:
        return place(rotate(points))

    legs = [Stroke(place(_outline(f"leg {k}")), _DARK, BODY, line + 1) for k in ("front", "back")]
    head_disc = head(_disc(_HEAD, _HEAD_RADIUS))
    trunk = place(_outline("body"))
    return [
        *_contoured(place(_tail(bird.tail)), _TAIL_COLOURS[bird.tail], _mask_value("tail"), line),
        *legs,
        *_crest(bird.crest, head, line),
        *_contoured(
            head(_beak(bird.beak_shape)), _BEAK_COLOURS[bird.beak_colour], _mask_value("beak"), line
        ),
        Stroke(_closed(trunk), _DARK, BODY, 2 * line),
        Stroke(_closed(head_disc), _DARK, BODY, 2 * line),
        Stroke(trunk, palette.body, BODY),
        Stroke(head_disc, palette.body, BODY),
        Stroke(place(_outline("belly")), palette.belly, BODY),
        *_wing(bird.wing, palette, place, line),
        *_eye(bird.eye_ring, head, line),
    ]


def _crest(kind: str, head: Callable[[np.ndarray], np.ndarray], line: int) -> list[Stroke]:
    if kind == "none":
        return []
    return _contoured(
        head(_outline(f"crest {kind}")), _CREST_COLOURS[kind], _mask_value("crest"), line
    )


def _wing(
    kind: str, palette: Palette, place: Callable[[np.ndarray], np.ndarray], line: int
) -> list[Stroke]:
    part = _mask_value("wing")
    marks = {
        "plain": [],
        "one bar": [_outline("bar front")],
        "two bars": [_outline("bar front"), _outline("bar back")],
        "spotted": [_disc(centre, 2.7) for centre in _SPOTS],
    }[kind]
    strokes = _contoured(place(_outline("wing")), palette.wing, part, line)
    return strokes + [Stroke(place(mark), _WHITE, part) for mark in marks]


def _eye(ring: str, head: Callable[[np.ndarray], np.ndarray], line: int) -> list[Stroke]:
    part = _mask_value("eye")
    strokes = []
    if ring != "none":
        strokes = _contoured(head(_disc(_EYE, _RING_RADIUS)), _RING_COLOURS[ring], part, line)
    glint = _disc((_EYE[0] + 1.1, _EYE[1] - 1.2), 1.1)
    return [
        *strokes,
        Stroke(head(_disc(_EYE, _EYE_RADIUS)), _DARK, part),
        Stroke(head(glint), _WHITE, part),
    ]


def _contoured(points: np.ndarray, fill: Colour, part: int, line: int) -> list[Stroke]:
    return [Stroke(points, fill, part), Stroke(_closed(points), _DARK, part, line)]


def _closed(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, points[:2]])


def _mask_value(part: str) -> int:
    return PARTS.index(part) + 1


@cache
def _tail(kind: str) -> np.ndarray:
    return _rotation(_TAIL_ANGLE, (0.0, 0.0))(_outline(f"tail {kind}")) + np.array(_TAIL_BASE) / 100


@cache
def _beak(kind: str) -> np.ndarray:
    return _outline(f"beak {kind}") + np.array(_BEAK_BASE) / 100


@cache
def _outline(name: str) -> np.ndarray:
    """Outline of a part in the bird's frame, ``(K, 2)`` float64."""
    text = _CORNERS.get(name) or _SMOOTH[name]
    points = np.array([[float(v) for v in pair.split(",")] for pair in text.split()]) / 100
    return points if name in _CORNERS else _smooth(points)


@cache
def _disc(centre: tuple[float, float], radius: float, corners: int = 20) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return (np.array(centre) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)) / 100


def _smooth(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Closed Catmull-Rom curve through ``points``: ``(K, 2)`` to ``(steps * K, 2)``."""
    here, before = points[:, None], np.roll(points, 1, axis=0)[:, None]
    after, beyond = np.roll(points, -1, axis=0)[:, None], np.roll(points, -2, axis=0)[:, None]
    t = (np.arange(steps) / steps)[None, :, None]
    linear, square = after - before, 2 * before - 5 * here + 4 * after - beyond
    cubic = 3 * (here - after) + beyond - before
    return (here + 0.5 * (linear * t + square * t**2 + cubic * t**3)).reshape(-1, 2)


def _rotation(angle: float, centre: tuple[float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Rotation by ``angle`` (clockwise on screen, as y points down) about ``centre`` in hundredths of a unit."""
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    pivot = np.array(centre) / 100
    return lambda points: (points - pivot) @ matrix + pivot
