"""The local mean of images, their reference where it is called ``"blur"``, and the contrast with it."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["local_contrast", "local_mean"]


def local_mean(images: Tensor) -> Tensor:
    """Means of ``(B, C, H, W)`` over squares of a quarter of the longer side, of what lies inside the image."""
    size = max(images.shape[-2:]) // 8 * 2 + 1
    for h, w in ((size, 1), (1, size)):  # one after the other: the same mean, in fewer steps
        images = F.avg_pool2d(images, (h, w), 1, (h // 2, w // 2), count_include_pad=False)
    return images


def local_contrast(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` less their local mean; 0 of an image of one colour, not a pattern of rounding errors."""
    one_colour = (images == images[..., :1, :1]).flatten(1).all(dim=1)
    return (images - local_mean(images)).masked_fill(one_colour[:, None, None, None], 0)
