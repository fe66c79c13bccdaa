"""Normalisation of images for an encoder, and of a data module's for another encoder, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalisation", "normalised"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalisation:
    """Normalisation by the mean and standard deviation of each channel, in units of [0, 1].

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self._mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(self.std).view(1, -1, 1, 1)

    def __call__(self, image: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` in [0, 255] to float32."""
        if self._mean.device != image.device:  # once, not in each step
            self._mean, self._std = self._mean.to(image.device), self._std.to(image.device)
        return (image.float() / 255 - self._mean) / self._std


@contextmanager
def normalised(
    data: FineGrainedDataModule, mean: Sequence[float], std: Sequence[float]
) -> Iterator[None]:
    """Context in which a data module normalises with this mean and standard deviation, and as before afterwards.

    So an evaluation inside a training run does not change what the run trains on.

    Args:
        data: The data module.
        mean: Mean of each channel, in units of [0, 1].
        std: Standard deviation of each channel.
    """
    before = data.normalisation
    data.normalise_with(tuple(mean), tuple(std))
    try:
        yield
    finally:
        data.normalise_with(before.mean, before.std)
