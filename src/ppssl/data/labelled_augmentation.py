"""Augmentation for classifiers, with RandAugment (Cubuk et al., arXiv 1909.13719)."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

from ppssl.data.transforms import MoCoV2Augmentation, apply_view
from ppssl.utils import randomness
from ppssl.utils.checks import check_range
from ppssl.utils.config import Configurable
from ppssl.utils.errors import ArgumentError

__all__ = ["LabelledAugmentation"]


class LabelledAugmentation(Configurable):
    """Augmentation of labelled training images: random crop, flip and RandAugment.

    Args:
        crop_scale: Range of the crop's area, as a fraction of the image's area.
        crop_ratio: Range of the crop's width over height.
        flip_probability: Probability of a horizontal flip.
        rand_augment_ops: Number of RandAugment operations per view; 0: none.
        rand_augment_magnitude: Magnitude of each operation, from 0 to 30.
    """

    def __init__(
        self,
        crop_scale: tuple[float, float] = (0.3, 1.0),
        *,
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: float = 0.5,
        rand_augment_ops: int = 2,
        rand_augment_magnitude: int = 9,
    ) -> None:
        check_range(">= 0", rand_augment_ops=rand_augment_ops)
        if not 0 <= rand_augment_magnitude <= 30:
            raise ArgumentError(
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
        """Draw and apply the view of an RGB image: ``(3, size, size)`` uint8.

        Args:
            image: The original, RGB.
            seed: The run's seed.
            epoch: The epoch, from 0.
            index: The image's index in the full data set.
            size: The view's height and width in pixels.
        """
        shape = (image.height, image.width)
        crop = self._crops.sample(seed, epoch, index, 0, size=shape, view_size=size)
        view = apply_view(image, crop, size)
        if self.rand_augment_ops == 0:
            return view
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.manual_seed(randomness.torch_seed(seed, "RandAugment", epoch, index))
            return self._rand_augment(view)
