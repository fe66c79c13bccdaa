"""Maps of where images are salient: their contrast with their local mean, which needs no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl.text.teachers.base import Teacher
from ppssl.utils.local_mean import local_contrast

__all__ = ["CELLS", "ContrastMaps", "whole_square"]

CELLS = 14
"""Cells along each side of a map."""
_SIZE = 16 * CELLS
"""Height and width in pixels of the image that a map is made of."""


def whole_square(image: Image.Image) -> Tensor:
    """An original image as its map is made of it: a square, ``(3, 224, 224)`` in [0, 1]."""
    square = image.convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


class ContrastMaps(Teacher):
    """Maps in place of embeddings: contrast of an image with its local mean, squared, ``(B, 196)``, of mean 1."""

    name = "contrast maps"
    dim = CELLS * CELLS

    transform = staticmethod(whole_square)

    def fingerprint(self) -> str:
        """Hash of what the maps depend on."""
        return hashlib.sha256(f"local mean, {_SIZE}, {CELLS}".encode()).hexdigest()

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """The maps of images from ``transform``."""
        contrast = local_contrast(pixels).abs().sum(dim=1, keepdim=True).square()
        maps = F.adaptive_avg_pool2d(contrast, CELLS).flatten(1)
        return maps / maps.mean(dim=1, keepdim=True).clamp(min=1e-12)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """There are no texts."""
        raise NotImplementedError("Maps have no texts.")

    def fits(self, text: str) -> bool:
        """There are no texts."""
        return False

    def to(self, device: torch.device | str) -> ContrastMaps:
        """Nothing to move; returns itself."""
        return self
