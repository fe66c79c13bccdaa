"""Image source of synthetic birds: a procedurally drawn fine-grained data set with masks of all parts.

All classes share one silhouette and differ in six attributes of five small parts (:mod:`ppssl.data.synthetic.classes`);
background, pose, size, light, body colour and twigs vary strongly and independently of the class. Every image is a
function of (seed, split, index) alone.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.source import ImageSource, digest
from ppssl.data.synthetic.classes import (
    ATTRIBUTE_PARTS,
    ATTRIBUTES,
    PARTS,
    BirdClass,
    bird_classes,
    nearest_classes,
)
from ppssl.data.synthetic.scene import (
    BACKGROUNDS,
    NUISANCES,
    Nuisance,
    draw_nuisance,
    render_image,
    render_masks,
)
from ppssl.utils.errors import ArgumentError
from ppssl.utils.randomness import generator

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_PARTS",
    "BACKGROUNDS",
    "NUISANCES",
    "PARTS",
    "BirdClass",
    "SyntheticBirds",
    "bird_classes",
]

_SPLITS = ("train", "val", "test")


class SyntheticBirds(ImageSource):
    """Images of synthetic birds.

    Labels are balanced: every ``num_classes`` consecutive images show each class once. A larger ``size`` adds images
    and leaves the others unchanged.

    Args:
        size: Number of images.
        num_classes: Number of classes, 2 to ``MAX_CLASSES``.
        image_size: Width and height in pixels, at least 32.
        seed: Seed of the images; the classes do not depend on it.
        split: ``"train"``, ``"val"`` or ``"test"``: same classes, different images.

    Attributes:
        birds: Classes with their attributes; labels index this list.
    """

    nuisance_names = NUISANCES

    def __init__(
        self,
        size: int = 4000,
        *,
        num_classes: int = 40,
        image_size: int = 96,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        if size < 1:
            raise ArgumentError(f"`size` must be at least 1, got {size}.")
        if image_size < 32:
            raise ArgumentError(
                f"`image_size` must be at least 32, got {image_size}: parts are invisible in smaller images."
            )
        if split not in _SPLITS:
            raise ArgumentError(f"`split` must be one of {_SPLITS}, got {split!r}.")
        self.birds = bird_classes(num_classes)
        self.classes = [bird.name(k) for k, bird in enumerate(self.birds)]
        self.image_size = image_size
        self.seed = seed
        self.split = split
        self.labels = self._draw_labels(size)
        self._nearest = nearest_classes(self.birds)
        self._images: Tensor | None = None

    def load(self, i: int) -> Image.Image:
        """Load image ``i``, RGB, S x S pixels: from memory after :meth:`materialise`, else by drawing it."""
        i = self._checked(i)
        pixels = self._draw(i) if self._images is None else self._images[i]
        return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))

    def materialise(
        self, progress: Callable[[int, int], None] | None = None, *, every: int = 256
    ) -> Tensor:
        """Draw all images once and keep them in memory, which data loader workers started afterwards share.

        Args:
            progress: Called with the number of drawn images and the number of all, after each ``every`` images.
            every: Images per call of ``progress``.

        Returns:
            ``(N, 3, S, S)`` uint8, the memory itself: do not write to it.
        """
        if self._images is None:
            images = torch.empty(len(self), 3, self.image_size, self.image_size, dtype=torch.uint8)
            for i in range(len(self)):
                images[i] = self._draw(i)
                if progress is not None and ((i + 1) % every == 0 or i + 1 == len(self)):
                    progress(i + 1, len(self))
            self._images = images
        return self._images

    def name(self, i: int) -> str:
        """Name of image ``i``: split, seed and number."""
        return f"bird {self.split}/{self.seed}/{self._checked(i)}"

    def fingerprint(self) -> str:
        """Hash of the settings and of the first image, which changes if the drawing code does."""
        settings = f"{len(self)} {len(self.birds)} {self.image_size} {self.seed} {self.split}"
        return digest([settings, self.load(0).tobytes().hex()])

    def caption(self, i: int) -> str:
        """English sentence with every attribute of the bird in image ``i``."""
        return self.birds[self.labels[self._checked(i)]].caption()

    def annotations(self, i: int) -> dict[str, Tensor]:
        """Masks, box, nuisance values and attributes of image ``i``.

        Returns:
            ``parts``: ``(P, S, S)`` bool, visible pixels of each part in the order of ``PARTS``, empty for a crest
            that the class does not have or a part behind a twig. ``object``: ``(S, S)`` bool, the whole bird,
            including pixels behind twigs. ``box``: ``(4,)`` float32, left, top, right, bottom of ``object`` in [0, 1].
            ``nuisance``: ``(K,)`` float32 in the order of ``NUISANCES``. ``attributes``: ``(A,)`` int64, the
            index of each value in ``ATTRIBUTES``.
        """
        i = self._checked(i)
        bird, nuisance = self.birds[self.labels[i]], self._nuisance(i)
        parts, whole = render_masks(bird, nuisance, self._grain(i), self.image_size)
        return {
            "parts": torch.from_numpy(parts),
            "object": torch.from_numpy(whole),
            "box": _box(whole),
            "nuisance": torch.tensor(nuisance.values(), dtype=torch.float32),
            "attributes": torch.tensor(bird.codes()),
        }

    def nuisances(self) -> np.ndarray:
        """Nuisance values of all images, without drawing them: ``(N, K)`` float32 in the order of ``NUISANCES``."""
        return np.array([self._nuisance(i).values() for i in range(len(self))], dtype=np.float32)

    def attributes(self) -> np.ndarray:
        """Attributes of all images, ``(N, A)`` int64: indices of the values in ``ATTRIBUTES``."""
        return np.array([bird.codes() for bird in self.birds])[self.labels]

    def nearest_class(self, label: int) -> int:
        """Class that differs from ``label`` in one attribute only (the first one, if there are two)."""
        return int(self._nearest[label])

    def distinguishing_attribute(self, label: int) -> str:
        """Attribute in which ``label`` and its nearest class differ, a key of ``ATTRIBUTES``."""
        bird, nearest = self.birds[label], self.birds[self.nearest_class(label)]
        differing = [name for name in ATTRIBUTES if getattr(bird, name) != getattr(nearest, name)]
        return differing[0]

    def distinguishing_part(self, label: int) -> int:
        """Part in which ``label`` and its nearest class differ, an index of ``PARTS``."""
        return PARTS.index(ATTRIBUTE_PARTS[self.distinguishing_attribute(label)])

    def _draw(self, i: int) -> Tensor:
        bird = self.birds[self.labels[i]]
        pixels = render_image(bird, self._nuisance(i), self._grain(i), self.image_size)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def _draw_labels(self, size: int) -> np.ndarray:
        """Draw the labels, ``(size,)`` int64: consecutive permutations of the classes."""
        purpose, classes = f"bird-{self.split}-labels", len(self.birds)
        num_blocks = math.ceil(size / classes)
        blocks = [generator(self.seed, purpose, b).permutation(classes) for b in range(num_blocks)]
        return np.concatenate(blocks)[:size].astype(np.int64)

    def _nuisance(self, i: int) -> Nuisance:
        return draw_nuisance(generator(self.seed, f"bird-{self.split}-nuisance", i))

    def _grain(self, i: int) -> np.random.Generator:
        """Random generator of the grain and the course of the twigs of image ``i``; the same for its masks."""
        return generator(self.seed, f"bird-{self.split}-grain", i)

    def _checked(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"Image {i} does not exist: there are {len(self)} images.")
        return int(i)


def _box(mask: np.ndarray) -> Tensor:
    columns, rows = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
    corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return torch.tensor(corners, dtype=torch.float32) / mask.shape[0]
