"""Procedural birds: a fine-grained data set without files, in which everything is known.

All classes share one silhouette and differ in six attributes of five small parts (:mod:`ppssl.data.synthetic.classes`);
background, pose, size, light, body colour and twigs vary strongly and say nothing about the class. Every picture is a
function of (seed, split, index), so that a picture is the same whoever asks for it, in whichever order.
"""

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
    """Pictures of procedural birds.

    Labels are balanced: every ``num_classes`` pictures in a row show each class once. A larger ``size`` adds
    pictures and leaves the others as they are.

    Args:
        size: Number of pictures.
        num_classes: Number of classes, 2 to ``MAX_CLASSES``.
        image_size: Width and height in pixels, at least 32.
        seed: Of all that is random; the classes do not depend on it.
        split: ``"train"``, ``"val"`` or ``"test"``: same classes, no common picture.

    Attributes:
        birds: The classes' attributes; labels index this list.
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
            raise ValueError(f"`size` must be at least 1, got {size}.")
        if image_size < 32:
            raise ValueError(
                f"`image_size` must be at least 32, got {image_size}: parts vanish below."
            )
        if split not in _SPLITS:
            raise ValueError(f"`split` must be one of {_SPLITS}, got {split!r}.")
        self.birds = bird_classes(num_classes)
        self.classes = [bird.name(k) for k, bird in enumerate(self.birds)]
        self.image_size = image_size
        self.seed = seed
        self.split = split
        self.labels = self._draw_labels(size)
        self._nearest = nearest_classes(self.birds)
        self._images: Tensor | None = None

    def load(self, i: int) -> Image.Image:
        """Picture ``i``, RGB, S x S pixels: from memory after :meth:`materialise`, else drawn now."""
        i = self._checked(i)
        pixels = self._draw(i) if self._images is None else self._images[i]
        return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))

    def materialise(
        self, progress: Callable[[int, int], None] | None = None, *, every: int = 256
    ) -> Tensor:
        """Draws all pictures once and keeps them; call it before data loader workers start, and they share them.

        Args:
            progress: Called with the number done and the number of all, after each ``every`` pictures.
            every: Pictures per call of ``progress``.

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
        """Where picture ``i`` comes from: split, seed and number."""
        return f"bird {self.split}/{self.seed}/{self._checked(i)}"

    def fingerprint(self) -> str:
        """Of what the pictures depend on, and of the first one, which shows a change of the way they are drawn."""
        settings = f"{len(self)} {len(self.birds)} {self.image_size} {self.seed} {self.split}"
        return digest([settings, self.load(0).tobytes().hex()])

    def caption(self, i: int) -> str:
        """An English sentence that names every attribute of the bird in picture ``i``."""
        return self.birds[self.labels[self._checked(i)]].caption()

    def annotations(self, i: int) -> dict[str, Tensor]:
        """What is known of picture ``i``.

        Returns:
            ``parts``: ``(P, S, S)`` bool, visible pixels of each part in the order of ``PARTS``; a crest that the
            class does not have, or a part behind a twig, is empty. ``object``: ``(S, S)`` bool, the whole bird with
            what twigs hide. ``box``: ``(4,)`` float32, left, top, right, bottom of ``object`` in [0, 1].
            ``nuisance``: ``(K,)`` float32 in the order of ``NUISANCES``. ``attributes``: ``(A,)`` int64, the
            position of each value in ``ATTRIBUTES``.
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
        """The nuisance values of all pictures, none drawn: ``(N, K)`` float32 in the order of ``NUISANCES``."""
        return np.array([self._nuisance(i).values() for i in range(len(self))], dtype=np.float32)

    def attributes(self) -> np.ndarray:
        """The attributes of all pictures, ``(N, A)`` int64: positions of the values in ``ATTRIBUTES``."""
        return np.array([bird.codes() for bird in self.birds])[self.labels]

    def nearest_class(self, label: int) -> int:
        """The class that differs from ``label`` in one attribute only (the first, if there are two)."""
        return int(self._nearest[label])

    def distinguishing_attribute(self, label: int) -> str:
        """The one attribute in which ``label`` and its nearest class differ, a key of ``ATTRIBUTES``."""
        pairs = zip(
            ATTRIBUTES,
            self.birds[label].codes(),
            self.birds[self.nearest_class(label)].codes(),
            strict=True,
        )
        return next(name for name, own, other in pairs if own != other)

    def distinguishing_part(self, label: int) -> int:
        """The part on which ``label`` and its nearest class differ, an index into ``PARTS``."""
        return PARTS.index(ATTRIBUTE_PARTS[self.distinguishing_attribute(label)])

    def _draw(self, i: int) -> Tensor:
        bird = self.birds[self.labels[i]]
        picture = render_image(bird, self._nuisance(i), self._grain(i), self.image_size)
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))

    def _draw_labels(self, size: int) -> np.ndarray:
        """``(size,)`` int64: one permutation of the classes after another."""
        purpose, classes = f"bird-{self.split}-labels", len(self.birds)
        blocks = [
            generator(self.seed, purpose, b).permutation(classes)
            for b in range(-(-size // classes))
        ]
        return np.concatenate(blocks)[:size].astype(np.int64)

    def _nuisance(self, i: int) -> Nuisance:
        return draw_nuisance(generator(self.seed, f"bird-{self.split}-nuisance", i))

    def _grain(self, i: int) -> np.random.Generator:
        """For what of picture ``i`` has no name (grain, the run of twigs); the same for its masks."""
        return generator(self.seed, f"bird-{self.split}-grain", i)

    def _checked(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"Picture {i} does not exist: there are {len(self)}.")
        return int(i)


def _box(mask: np.ndarray) -> Tensor:
    columns, rows = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
    corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return torch.tensor(corners, dtype=torch.float32) / mask.shape[0]
