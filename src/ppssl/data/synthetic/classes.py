"""Classes of the synthetic birds: combinations of six attributes of five small parts.

Classes come in pairs that differ in one attribute only, and the pairs differ in several. So every class has a nearest
class at distance one, and exactly one part distinguishes the two.
"""

from dataclasses import astuple, dataclass
from functools import lru_cache

import numpy as np

from ppssl.utils.errors import ArgumentError
from ppssl.utils.randomness import generator

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_PARTS",
    "MAX_CLASSES",
    "PARTS",
    "BirdClass",
    "bird_classes",
    "check_num_classes",
    "nearest_classes",
]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "beak_shape": ("dagger", "cone", "hooked", "curved"),
    "beak_colour": ("red", "yellow", "black", "blue"),
    "wing": ("plain", "one bar", "two bars", "spotted"),
    "crest": ("none", "pointed", "fan", "curled"),
    "tail": ("square", "forked", "pointed", "fan"),
    "eye_ring": ("none", "white", "red"),
}
"""Attribute names and their values, in the order of :class:`BirdClass`'s fields."""

PARTS = ("beak", "wing", "crest", "tail", "eye")
"""Parts that have a mask, in the order of the masks."""

ATTRIBUTE_PARTS = {
    "beak_shape": "beak",
    "beak_colour": "beak",
    "wing": "wing",
    "crest": "crest",
    "tail": "tail",
    "eye_ring": "eye",
}
"""Part that shows each attribute."""

MAX_CLASSES = 200
"""Largest number of classes of :func:`bird_classes`."""

_PHRASES = {
    "dagger": "long dagger-shaped beak",
    "cone": "short conical beak",
    "hooked": "stout hooked beak",
    "curved": "long down-curved beak",
    "plain": "a plain wing",
    "one bar": "one white wing bar",
    "two bars": "two white wing bars",
    "spotted": "a white-spotted wing",
}


@dataclass(frozen=True)
class BirdClass:
    """One bird class: a value of each attribute, from :data:`ATTRIBUTES`."""

    beak_shape: str
    beak_colour: str
    wing: str
    crest: str
    tail: str
    eye_ring: str

    def caption(self) -> str:
        """English sentence with all attributes; different classes have different captions."""
        crest = "no crest" if self.crest == "none" else f"a {self.crest} crest"
        ring = "no eye ring" if self.eye_ring == "none" else f"a {self.eye_ring} eye ring"
        return (
            f"a bird with a {self.beak_colour} {_PHRASES[self.beak_shape]}, {_PHRASES[self.wing]}, {crest}, "
            f"a {self.tail} tail and {ring}"
        )

    def name(self, number: int) -> str:
        """Class name, which states two of the six attributes, as names of species do, and a number."""
        return f"{self.beak_colour} bill {self.tail} tail bird {number:03d}"

    def codes(self) -> tuple[int, ...]:
        """Index of each attribute's value in :data:`ATTRIBUTES`, six integers."""
        return tuple(
            values.index(value)
            for values, value in zip(ATTRIBUTES.values(), astuple(self), strict=True)
        )


def check_num_classes(n: int) -> None:
    """Check a number of classes.

    Raises:
        ValueError: It is not in 2 to :data:`MAX_CLASSES`.
    """
    if not 2 <= n <= MAX_CLASSES:
        raise ArgumentError(f"`num_classes` must be between 2 and {MAX_CLASSES}, got {n}.")


def bird_classes(n: int) -> list[BirdClass]:
    """First ``n`` classes, the same for every seed and machine.

    Classes ``2k`` and ``2k + 1`` differ in attribute ``k mod 6`` alone; for an odd ``n`` the last class is a third one
    next to the last pair. Classes of two pairs differ in at least three attributes up to 60 classes, and
    in at least two beyond.

    Args:
        n: Number of classes, from 2 to :data:`MAX_CLASSES`.
    """
    check_num_classes(n)
    codes = _pairs()[:n]
    if n % 2:
        codes = np.concatenate([codes[:-1], _third(codes[:-1])[None]])
    return [
        BirdClass(*(v[c] for v, c in zip(ATTRIBUTES.values(), code, strict=True)))
        for code in codes.tolist()
    ]


def nearest_classes(classes: list[BirdClass]) -> np.ndarray:
    """Nearest class of each class, by the number of different attributes, ``(C,)`` int64; the first one of several."""
    codes = np.array([c.codes() for c in classes])
    distance = (codes[:, None] != codes[None]).sum(-1)
    np.fill_diagonal(distance, codes.shape[1] + 1)
    return distance.argmin(1)


@lru_cache(maxsize=1)
def _pairs() -> np.ndarray:
    """Attribute codes ``(MAX_CLASSES, 6)`` of the pairs, each of which is the farthest from all pairs before it.

    Among equally far pairs the one with the largest total distance is chosen, which balances the attribute values.
    """
    sizes = [len(values) for values in ATTRIBUTES.values()]
    grid = np.indices(sizes)  # (6, *sizes): the code of every combination
    nearest, total = np.full(sizes, len(sizes)), np.zeros(sizes)
    rng = generator(0, "bird-classes")
    chosen: list[np.ndarray] = []
    for k in range(MAX_CLASSES // 2):
        axis = k % len(sizes)
        step = int(rng.integers(1, sizes[axis]))
        pair_nearest = np.minimum(nearest, np.roll(nearest, -step, axis))
        pair_total = total + np.roll(total, -step, axis)
        score = pair_nearest * 1e6 + pair_total + rng.random(sizes)
        first = np.array(np.unravel_index(score.argmax(), sizes))
        second = first.copy()
        second[axis] = (first[axis] + step) % sizes[axis]
        for code in (first, second):
            distance = (grid != code.reshape(-1, *[1] * len(sizes))).sum(0)
            nearest, total = np.minimum(nearest, distance), total + distance
            chosen.append(code)
    return np.array(chosen)


def _third(codes: np.ndarray) -> np.ndarray:
    """Attribute code of one more class next to the last pair, with a third value of one attribute.

    The attribute is the one that distinguishes the pair, if an unused value of it is left.
    """
    first = codes[-2]
    for attribute in np.argsort(first == codes[-1], kind="stable"):
        for value in range(len(tuple(ATTRIBUTES.values())[attribute])):
            third = first.copy()
            third[attribute] = value
            if not (codes == third).all(1).any():
                return third
    raise RuntimeError("No attribute value is unused next to the last pair.")
