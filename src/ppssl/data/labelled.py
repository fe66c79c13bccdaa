"""Training images with their labels, for fine-tuning: one random view each, as a function of (seed, epoch, index).

A random crop and mirroring, then RandAugment (Cubuk et al., arXiv 1909.13719) as torchvision has it.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import RandAugment

from ppssl.data.dataset import item_numbers, load_readable
from ppssl.data.source import ImageSource
from ppssl.data.transforms import MoCoV2Augmentation, apply_view
from ppssl.utils import randomness
from ppssl.utils.config import Configurable

__all__ = ["LabelledAugmentation", "LabelledDataset"]


class LabelledAugmentation(Configurable):
    """Draws the view of a labelled training image.

    Args:
        crop_scale: Range of the crop's area, as a fraction of the image's.
        crop_ratio: Range of the crop's width over height.
        flip_probability: How often the view is mirrored.
        rand_augment_ops: How many operations of RandAugment follow one another; 0: none.
        rand_augment_magnitude: How strong each is, from 0 to 30.
    """

    def __init__(
        self,
        crop_scale: tuple[float, float] = (0.3, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: float = 0.5,
        rand_augment_ops: int = 2,
        rand_augment_magnitude: int = 9,
    ) -> None:
        if rand_augment_ops < 0:
            raise ValueError(f"`rand_augment_ops` must be >= 0, got {rand_augment_ops}.")
        if not 0 <= rand_augment_magnitude <= 30:
            raise ValueError(
                f"`rand_augment_magnitude` must be in [0, 30], got {rand_augment_magnitude}."
            )
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.flip_probability = flip_probability
        self.rand_augment_ops = rand_augment_ops
        self.rand_augment_magnitude = rand_augment_magnitude
        self._crops = MoCoV2Augmentation(
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            jitter_probability=0,
            grey_probability=0,
            blur_probability=0,
            flip_probability=flip_probability,
        )
        self._rand_augment = RandAugment(rand_augment_ops, rand_augment_magnitude)

    def view(self, image: Image.Image, seed: int, epoch: int, index: int, size: int) -> Tensor:
        """The view of an RGB image, ``(3, size, size)`` uint8; arguments as of ``MoCoV2Augmentation.sample``."""
        shape = (image.height, image.width)
        crop = self._crops.sample(seed, epoch, index, 0, size=shape, view_size=size)
        view = apply_view(image, crop, size)
        if self.rand_augment_ops == 0:
            return view
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.manual_seed(randomness.torch_seed(seed, "RandAugment", epoch, index))
            return self._rand_augment(view)


class LabelledDataset(Dataset[dict[str, Any]]):
    """One view of a labelled training image, by ``(epoch, position)`` among ``items``."""

    def __init__(
        self,
        source: ImageSource,
        *,
        items: np.ndarray,
        offset: int,
        augmentation: LabelledAugmentation,
        size: int,
        seed: int,
    ) -> None:
        self.source, self.items, self.offset = source, items, offset
        self.augmentation, self.size, self.seed = augmentation, size, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, position = key
        image, i, broken = load_readable(self.source, self.items, position)
        index = i + self.offset
        view = self.augmentation.view(image, self.seed, epoch, index, self.size)
        return {"image": view, **item_numbers(self.source, i, index), "broken": broken}
