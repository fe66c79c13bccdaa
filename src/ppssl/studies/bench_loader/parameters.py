"""Random parameters of views as ours and torchvision's MoCo v2 draw them, for comparison."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import ColorJitter, RandomResizedCrop

from ppssl.data.transforms import MoCoV2Augmentation
from ppssl.studies.bench_loader.pipelines import BLUR_SIGMA, JITTER

__all__ = ["PARAMETERS", "our_parameters", "torchvision_parameters"]

PARAMETERS = {
    "area": "crop's area / image's area",
    "ratio": "crop's width / height",
    "left": "crop's left edge / image's width",
    "brightness": "brightness factor",
    "contrast": "contrast factor",
    "saturation": "saturation factor",
    "hue": "hue shift, turns",
    "blur": "blur's standard deviation, pixels",
}
"""Names and descriptions of the parameters."""
COLORS = ("brightness", "contrast", "saturation", "hue")


def our_parameters(
    sizes: Sequence[tuple[int, int]], view_size: int, count: int
) -> dict[str, np.ndarray]:
    """Draw parameters of our augmentation, MoCo v2's by default.

    Args:
        sizes: Width and height of images in pixels, taken in turns.
        view_size: Height and width of a view in pixels.
        count: Number of views.

    Returns:
        Values by the names of :data:`PARAMETERS`: one per view, of colours and blur one per view that has them.
    """
    augmentation = MoCoV2Augmentation()
    values: dict[str, list[float]] = {name: [] for name in PARAMETERS}
    for i in range(count):
        width, height = sizes[i % len(sizes)]
        p = augmentation.sample(0, 0, i, 0, size=(height, width), view_size=view_size)
        left, _, w, h = p.crop
        _add_crop(values, w * h, w * width / (h * height), left)
        for name, value in zip(COLORS, p.jitter or (), strict=False):
            values[name].append(value)
        if p.blur_sigma > 0:
            values["blur"].append(p.blur_sigma)
    return {name: np.array(drawn) for name, drawn in values.items()}


def torchvision_parameters(
    sizes: Sequence[tuple[int, int]], view_size: int, count: int
) -> dict[str, np.ndarray]:
    """Draw parameters by torchvision's transforms; arguments and result as of :func:`our_parameters`.

    MoCo v2 draws the blur in pixels of a view of 224 pixels; here it is in proportion to the view.
    """
    values: dict[str, list[float]] = {name: [] for name in PARAMETERS}
    jitter = ColorJitter(*JITTER)
    ranges = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue]
    for i in range(count):
        width, height = sizes[i % len(sizes)]
        image = torch.empty(1, height, width)
        _, left, h, w = RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3])
        _add_crop(values, w * h / (width * height), w / h, left / width)
        _, *factors = ColorJitter.get_params(*ranges)
        for name, value in zip(COLORS, factors, strict=True):
            values[name].append(float(value or 0))
        values["blur"].append(np.random.uniform(*BLUR_SIGMA) * view_size / 224)
    return {name: np.array(drawn) for name, drawn in values.items()}


def _add_crop(values: dict[str, list[float]], area: float, ratio: float, left: float) -> None:
    for name, value in (("area", area), ("ratio", ratio), ("left", left)):
        values[name].append(value)
