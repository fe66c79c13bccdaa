"""Flip, colour, blur and solarization of the views on the training device, with the parameters that the workers drew.

The worker crops and resizes; the rest is done here for a batch at once, rounded where
:func:`ppssl.data.transforms.apply_view` rounds. All sizes follow from the configuration, so the host never waits for
the device.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl.data.transforms import (
    MoCoV2Augmentation,
    ViewParameters,
    by_view,
    color_matrices,
)
from ppssl.utils.errors import UserError

__all__ = ["augment_views", "largest_kernel", "parameter_tensors"]


def largest_kernel(augmentation: MoCoV2Augmentation, size: int) -> int:
    """Width in pixels of the largest blur kernel for views of ``size`` pixels and further ones; 1 without blur.

    Raises:
        UserError: The kernel reaches farther than a view.
    """
    if max(by_view(augmentation.blur_probability)) == 0:
        return 1
    sizes = augmentation.view_sizes(size)
    width, smallest = _kernel_width(augmentation.blur_sigma[1] * max(sizes) / 224), min(sizes)
    if width // 2 >= smallest:
        raise UserError(
            f"`augment_on: device` cannot blur views of {smallest} pixels with a kernel of {width}: lower "
            "`augmentation.blur_sigma`, or set `augment_on: workers`."
        )
    return width


def parameter_tensors(parameters: Sequence[ViewParameters], kernel: int) -> dict[str, Tensor]:
    """Parameters of the V views of an image as tensors, for :func:`augment_views`.

    Args:
        parameters: Their parameters.
        kernel: Width of all blur kernels, of :func:`largest_kernel`; smaller ones are padded with zeros.

    Returns:
        ``color`` ``(V, 2, 3, 3)``: the matrices of :func:`~ppssl.data.transforms.color_matrices`; ``blur``
        ``(V, kernel)``; both float32. ``solarize`` ``(V,)`` bool.
    """
    color = np.stack([np.stack(color_matrices(p)) for p in parameters])
    blur = np.stack([_blur_kernel(p.blur_sigma, kernel) for p in parameters])
    tensors = {"color": torch.from_numpy(color).float(), "blur": torch.from_numpy(blur).float()}
    return tensors | {"solarize": torch.tensor([p.solarize for p in parameters])}


@torch.no_grad()
def augment_views(
    crops: Sequence[Tensor], geometry: Tensor, parameters: Mapping[str, Tensor]
) -> list[Tensor]:
    """Flip, recolour, blur and solarize the crops of a batch.

    Args:
        crops: V tensors ``(B, 3, S, S)`` uint8, each with an S of its own.
        geometry: ``(B, V, 5)``, whose last number is the flip.
        parameters: :func:`parameter_tensors` of a batch, ``(B, V, ...)``.

    Returns:
        V tensors ``(B, 3, S, S)`` float32 of the same sizes, whole numbers in [0, 255]: those of
        :func:`~ppssl.data.transforms.apply_view` but for 2 levels.
    """
    views = []
    for v, crop in enumerate(crops):
        with torch.autocast(crop.device.type, enabled=False):
            flipped = torch.where(geometry[:, v, 4, None, None, None] > 0, crop.flip(3), crop)
            view = _recolor(flipped.float(), parameters["color"][:, v])
            view = _blur(view, parameters["blur"][:, v])
            bright = parameters["solarize"][:, v, None, None, None] & (view >= 128)
            views.append(torch.where(bright, 255 - view, view))
    return views


def _recolor(images: Tensor, matrices: Tensor) -> Tensor:
    pixel, mean = matrices.unbind(dim=1)  # (B, 3, 3) each
    offset = mean @ images.mean(dim=(2, 3))[:, :, None]  # (B, 3, 1)
    colors = torch.baddbmm(offset, pixel, images.flatten(2))
    return colors.round().clamp(0, 255).view(images.shape)


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image with its own kernel, rows after columns, as grouped convolutions over the whole batch."""
    batch, channels, height, width = images.shape
    size = kernels.shape[1]
    if size == 1:
        return images
    groups = batch * channels
    weight = kernels[:, None].expand(-1, channels, -1).reshape(groups, 1, size, 1)
    planes, r = images.reshape(1, groups, height, width), size // 2
    planes = F.conv2d(F.pad(planes, (0, 0, r, r), mode="reflect"), weight, groups=groups)
    planes = F.conv2d(F.pad(planes, (r, r, 0, 0), mode="reflect"), weight.mT, groups=groups)
    return planes.round().clamp(0, 255).view(images.shape)


def _kernel_width(sigma: float) -> int:
    """Width of OpenCV's kernel for pixels of 8 bits: three standard deviations to each side."""
    return round(6 * sigma + 1) | 1


def _blur_kernel(sigma: float, size: int) -> np.ndarray:
    width = _kernel_width(sigma) if sigma > 0 else 1
    if width > size:
        raise ValueError(
            f"The augmentation drew a `blur_sigma` of {sigma:.3g} pixels, whose kernel of {width} is larger than that "
            f"of its largest one, {size}."
        )
    kernel = cv2.getGaussianKernel(width, sigma).ravel() if width > 1 else np.ones(1)
    return np.pad(kernel, (size - width) // 2)
