"""Fixed crops of an image for a teacher (:ref:`D7 <d7>`)."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.utils.randomness import generator

__all__ = ["FixedCrops"]


class FixedCrops:
    """Fixed crops for the teacher: the whole image and k - 1 crops of half to all of its area (:ref:`D7 <d7>`).

    The position of each crop is the same in all images.

    Args:
        transform: The teacher's preprocessing.
        k: Number of crops.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor], k: int = 1) -> None:
        self.transform, self.k = transform, k

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocessed crops of an image, ``(k, 3, H, W)``."""
        boxes = [(0.0, 0.0, 1.0, 1.0)] + [self._box(view) for view in range(1, self.k)]
        width, height = image.size
        crops = [
            image.crop((round(x * width), round(y * height), round(r * width), round(b * height)))
            for x, y, r, b in boxes
        ]
        return torch.stack([self.transform(crop) for crop in crops])

    def _box(self, view: int) -> tuple[float, float, float, float]:
        rng = generator(0, "teacher-view", view)
        side = float(np.sqrt(rng.uniform(0.5, 1)))
        x, y = (rng.random(2) * (1 - side)).tolist()
        return x, y, x + side, y + side
