"""Estimate of where the object is in photographs without boxes or masks, by OpenCV's GrabCut.

Rother et al., "GrabCut" (SIGGRAPH 2004): colour models of fore- and background and a graph cut, from a rectangle.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["grabcut"]

MARGIN = 0.05
"""Width of the border that is taken for background, as a fraction of the image's side."""
ROUNDS = 5
SENSIBLE = (0.05, 0.85)
"""Range of the object's share of an image; another estimate has failed, and counts as no object."""


def grabcut(images: Tensor) -> Tensor:
    """Masks of the object: ``(N, 3, S, S)`` uint8 to ``(N, S, S)`` float32, 0 or 1, all 0 where the estimate failed.

    Everything but a border is possibly the object, so it is for images that are cropped to it with a margin. The same
    image has the same mask.
    """
    return torch.stack([_mask(image.permute(1, 2, 0).contiguous().numpy()) for image in images])


def _mask(image: np.ndarray) -> Tensor:
    height, width = image.shape[:2]
    border = max(1, round(MARGIN * min(height, width)))
    inside = (border, border, width - 2 * border, height - 2 * border)
    state, models = np.zeros((height, width), np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.setRNGSeed(0)
    cv2.grabCut(image[..., ::-1].copy(), state, inside, *models, ROUNDS, cv2.GC_INIT_WITH_RECT)
    mask = torch.from_numpy((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).float()
    return mask if SENSIBLE[0] <= mask.mean() <= SENSIBLE[1] else torch.zeros_like(mask)
