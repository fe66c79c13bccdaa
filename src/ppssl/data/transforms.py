"""Augmentations: random view parameters, and the functions that apply them to an image.

MoCo v2's augmentation (Chen et al., arXiv 2003.04297; :ref:`F7 <f7>`), and the centre crop for evaluation. Random
parameters are a function of (seed, epoch, index, view) alone; :func:`apply_view` applies them to one image, in the
workers, and :mod:`ppssl.data.device_augmentation` to a batch of crops, on the training device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ppssl.data.images import shorten, squash, to_rgb
from ppssl.utils import randomness
from ppssl.utils.checks import check_pixels, check_range
from ppssl.utils.config import Configurable
from ppssl.utils.errors import ArgumentError

__all__ = [
    "MoCoV2Augmentation",
    "ViewParameters",
    "apply_view",
    "by_view",
    "center_view",
    "color_matrices",
    "color_matrix",
    "crop_view",
]

_RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
)
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_LUMA = _RGB_TO_YIQ[0]
_GREY = np.tile(_LUMA, (3, 1))
_SOLARIZED = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256)).astype(np.uint8)


@dataclass(frozen=True)
class ViewParameters:
    """Random parameters of one view.

    Attributes:
        crop: Left, top, width and height as fractions of the original's width and height, in [0, 1].
        flip: Whether the crop is mirrored left to right.
        jitter: Brightness, contrast and saturation factors and the hue shift in turns; ``None`` for no jitter.
        grey: Whether colour is removed.
        blur_sigma: Standard deviation of the Gaussian blur in pixels of the view; 0 for none.
        solarize: Whether bright values, of 128 and more, are inverted.
    """

    crop: tuple[float, float, float, float]
    flip: bool
    jitter: tuple[float, float, float, float] | None
    grey: bool
    blur_sigma: float
    solarize: bool = False

    def geometry(self) -> Tensor:
        """Crop and flip as ``(5,)`` float32: left, top, width, height as fractions of the original, flip (0 or 1)."""
        return torch.tensor([*self.crop, float(self.flip)])


class MoCoV2Augmentation(Configurable):
    """MoCo v2's augmentation: random crop, colour jitter, greyscale, blur and flip; and solarization, as in BYOL.

    BYOL's is asymmetric (arXiv 2006.07733, Table 6): ``crop_scale=(0.08, 1.0)``, ``jitter=(0.4, 0.4, 0.2, 0.1)``,
    ``blur_probability=(1.0, 0.1)``, ``solarize_probability=(0.0, 0.2)``.

    Args:
        crop_scale: Range of the crop's area, as a fraction of the image's area.
        crop_ratio: Range of the crop's width over height.
        jitter: Strength s of brightness, contrast, saturation (each a factor from 1 - s to 1 + s) and hue (a shift from
            -s to s, in turns).
        jitter_probability: Probability of colour jitter.
        grey_probability: Probability of greyscale.
        blur_sigma: Range of the blur's standard deviation, in pixels of a view of 224 pixels; it scales with the view.
        blur_probability: Probability of blur, or one for each view.
        flip_probability: Probability of a horizontal flip.
        solarize_probability: Probability that values of 128 and more are inverted after the blur, or one for each view.
        local_crops: Number of further views of each image (multi-crop: Caron et al., arXiv 2006.09882), which are
            queries only; a probability for each view is that of the first one for them.
        local_size: Height and width of the further views in pixels.
        local_scale: ``crop_scale`` of the further views.
    """

    def __init__(
        self,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        *,
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_probability: float = 0.8,
        grey_probability: float = 0.2,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        blur_probability: float | tuple[float, float] = 0.5,
        flip_probability: float = 0.5,
        solarize_probability: float | tuple[float, float] = 0.0,
        local_crops: int = 0,
        local_size: int = 96,
        local_scale: tuple[float, float] = (0.05, 0.4),
    ) -> None:
        for name, scale in (("crop_scale", crop_scale), ("local_scale", local_scale)):
            if not 0 < scale[0] <= scale[1] <= 1:
                raise ArgumentError(f"`{name}` must be 0 < low <= high <= 1, got {scale}.")
        check_range(">= 0", local_crops=local_crops)
        check_pixels(local_size=local_size)
        if not 0 < crop_ratio[0] <= crop_ratio[1]:
            raise ArgumentError(f"`crop_ratio` must be 0 < low <= high, got {crop_ratio}.")
        if not (all(0 <= s <= 1 for s in jitter[:3]) and 0 <= jitter[3] <= 0.5):
            raise ArgumentError(
                f"`jitter` must be three numbers in [0, 1] and the hue in [0, 0.5], got {jitter}."
            )
        if not 0 <= blur_sigma[0] <= blur_sigma[1]:
            raise ArgumentError(f"`blur_sigma` must be 0 <= low <= high, got {blur_sigma}.")
        check_range(
            "in [0, 1]",
            jitter_probability=jitter_probability,
            grey_probability=grey_probability,
            flip_probability=flip_probability,
        )
        for blur, solarize in zip(
            by_view(blur_probability), by_view(solarize_probability), strict=True
        ):
            check_range("in [0, 1]", blur_probability=blur, solarize_probability=solarize)
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.jitter = jitter
        self.jitter_probability = jitter_probability
        self.grey_probability = grey_probability
        self.blur_sigma = blur_sigma
        self.blur_probability = blur_probability
        self.flip_probability = flip_probability
        self.solarize_probability = solarize_probability
        self.local_crops = local_crops
        self.local_size = local_size
        self.local_scale = local_scale

    def view_sizes(self, size: int) -> list[int]:
        """Height and width in pixels of each view of an image, in order; ``size`` is that of the first two."""
        return [size, size, *[self.local_size] * self.local_crops]

    def sample(
        self, seed: int, epoch: int, index: int, view: int, *, size: tuple[int, int], view_size: int
    ) -> ViewParameters:
        """Draw the parameters of one view.

        Args:
            seed: The run's seed.
            epoch: The epoch, from 0; -1 for the pass that fills the key queue.
            index: The image's index in the full data set.
            view: 0 for the query's view, 1 for the key's, 2 and more for further views.
            size: The original's height and width in pixels: the crop's shape is measured in pixels.
            view_size: The view's height and width in pixels.
        """
        rng = randomness.generator(seed, "view", epoch, index, view)
        crop = self._sample_crop(rng, *size, self.crop_scale if view < 2 else self.local_scale)
        pair = view if view < 2 else 0
        u = rng.random(4)  # always drawn, so that no option changes the random numbers of another
        strength = np.array(self.jitter)
        factors = np.array([1, 1, 1, 0]) + strength * rng.uniform(-1, 1, 4)
        sigma = rng.uniform(*self.blur_sigma) * view_size / 224
        bright = rng.random()
        return ViewParameters(
            crop=crop,
            flip=bool(u[0] < self.flip_probability),
            jitter=tuple(factors.tolist()) if u[1] < self.jitter_probability else None,
            grey=bool(u[2] < self.grey_probability),
            blur_sigma=float(sigma) if u[3] < by_view(self.blur_probability)[pair] else 0.0,
            solarize=bool(bright < by_view(self.solarize_probability)[pair]),
        )

    def shortest_side(self, view_size: int) -> int:
        """Length in pixels that the short side of an image needs, so that no crop has fewer pixels than the view."""
        low, high = self.crop_ratio
        side = view_size / math.sqrt(self.crop_scale[0] * min(low, 1 / high))
        if self.local_crops:
            local = self.local_size / math.sqrt(self.local_scale[0] * min(low, 1 / high))
            side = max(side, local)
        return math.ceil(side)

    def _sample_crop(
        self, rng: np.random.Generator, height: int, width: int, scale: tuple[float, float]
    ) -> tuple[float, float, float, float]:
        """Draw area and aspect ratio until the crop fits, at most ten times; then use the largest central crop."""
        areas = rng.uniform(*scale, 10) * height * width
        ratios = np.exp(rng.uniform(math.log(self.crop_ratio[0]), math.log(self.crop_ratio[1]), 10))
        left, top = rng.random(2)
        for w, h in zip(
            np.sqrt(areas * ratios) / width, np.sqrt(areas / ratios) / height, strict=True
        ):
            if w <= 1 and h <= 1:
                return float(left * (1 - w)), float(top * (1 - h)), float(w), float(h)
        ratio = min(max(width / height, self.crop_ratio[0]), self.crop_ratio[1])
        w, h = min(1.0, ratio * height / width), min(1.0, width / (ratio * height))
        return (1 - w) / 2, (1 - h) / 2, w, h


def by_view(probability: float | Sequence[float]) -> tuple[float, float]:
    """A probability for each of the two views, of one for both or of two."""
    if isinstance(probability, int | float):
        return probability, probability
    return probability[0], probability[1]


def apply_view(image: Image.Image | np.ndarray, parameters: ViewParameters, size: int) -> Tensor:
    """The view of one image, by OpenCV: ``(3, size, size)`` uint8, by pixels in memory. See :func:`crop_view`."""
    view = crop_view(image, parameters, size)
    if parameters.flip:
        view = cv2.flip(view, 1)
    if parameters.jitter is not None or parameters.grey:
        view = cv2.transform(view, color_matrix(parameters, np.array(cv2.mean(view)[:3])))
    if parameters.blur_sigma > 0:
        view = cv2.GaussianBlur(view, (0, 0), parameters.blur_sigma)
    if parameters.solarize:
        view = cv2.LUT(view, _SOLARIZED)
    return torch.from_numpy(view).permute(2, 0, 1)


def crop_view(image: Image.Image | np.ndarray, parameters: ViewParameters, size: int) -> np.ndarray:
    """Crop a view, rounded to whole pixels; a smaller crop is enlarged bilinearly, a larger one averaged over areas.

    Args:
        image: An RGB image, or its pixels ``(H, W, 3)`` uint8.
        parameters: The parameters of the view.
        size: Height and width of the view in pixels.

    Returns:
        ``(size, size, 3)`` uint8.
    """
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    left, top, w, h = parameters.crop
    x, right = _whole_pixels(left * width, (left + w) * width, width)
    y, bottom = _whole_pixels(top * height, (top + h) * height, height)
    shrinks = right - x > size or bottom - y > size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels[y:bottom, x:right], (size, size), interpolation=method)


def _whole_pixels(start: float, end: float, length: int) -> tuple[int, int]:
    """Round a range of pixels; at least one is left."""
    first = min(round(start), length - 1)
    return first, max(first + 1, round(end))


def color_matrix(parameters: ViewParameters, mean: np.ndarray) -> np.ndarray:
    """Colour jitter and greyscale as one affine map of RGB: ``(3, 4)``, the last column is the offset.

    Args:
        parameters: The view's parameters.
        mean: ``(3,)`` mean colour of the cropped view; the contrast is scaled about its luma.
    """
    pixel, of_mean = color_matrices(parameters)
    return np.concatenate([pixel, (of_mean @ mean)[:, None]], axis=1)


def color_matrices(parameters: ViewParameters) -> tuple[np.ndarray, np.ndarray]:
    """Colour jitter and greyscale as two matrices ``(3, 3)``, of a pixel and of the view's mean colour, to be added up.

    DEVIATION from torchvision's chain of operations: the hue is rotated in YIQ, which is linear, and no intermediate
    result is clipped or rounded, as in NVIDIA DALI's ColorTwist. The four adjustments therefore commute, and one matrix
    costs a twentieth of the chain.
    """
    pixel, of_mean = np.eye(3), np.zeros((3, 3))
    if parameters.jitter is not None:
        brightness, contrast, saturation, hue = parameters.jitter
        cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
        turn = _YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _RGB_TO_YIQ
        pixel = brightness * contrast * (saturation * turn + (1 - saturation) * _GREY)
        of_mean = brightness * (1 - contrast) * _GREY
    if parameters.grey:
        pixel, of_mean = _GREY @ pixel, _GREY @ of_mean
    return pixel, of_mean


def center_view(
    image: Image.Image,
    size: int,
    crop_fraction: float,
    squashed: bool = False,
    bit_depth: int | None = None,
) -> Tensor:
    """Centre crop for evaluation, ``(3, size, size)`` uint8, of the image, or its square, at size / crop_fraction.

    The image, of any mode, is converted by :func:`~ppssl.data.images.to_rgb`.
    """
    if image.mode != "RGB" or image.info or image.getexif():  # else a source has done it
        image = to_rgb(image, bit_depth)
    whole = squash(image) if squashed else shorten(image)
    resized = tv.resize(whole, [round(size / crop_fraction)])
    return tv.pil_to_tensor(tv.center_crop(resized, [size, size]))
