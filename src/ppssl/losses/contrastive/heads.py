"""Projection and prediction heads: layers of linear map, norm and ReLU, from embedding to z."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, Self

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppssl.utils.errors import UserError

__all__ = ["Head", "HeadNorm"]

HeadNorm = Literal["batch", "layer"]


class Head(nn.Sequential):
    """Multilayer perceptron with a norm and ReLU after each hidden layer: ``(B, sizes[0]) -> (B, sizes[-1])``.

    Args:
        sizes: Widths of input, hidden layers and output.
        norm: ``"batch"``: statistics of the images of a batch, of one process; ``"layer"``: of each image alone.
        norm_output: Whether the output is normalised as well, without affine parameters.
    """

    def __init__(self, sizes: Sequence[int], norm: HeadNorm, *, norm_output: bool = False) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes), 2):
            hidden = i < len(sizes)
            layers.append(nn.Linear(before, after, bias=not (hidden or norm_output)))
            if hidden or norm_output:
                layers.append(_norm(norm, after, affine=hidden))
            if hidden:
                layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        """The output of the last layer.

        Raises:
            UserError: Batch norm has a single image to take statistics of.
        """
        if self.training and len(embedding) < 2 and self._has_batch_norm():
            raise UserError(
                "Batch norm in a head needs at least 2 images a batch and process, and this batch has one: set "
                "`data.batch_size`, or `model.contrastive.head_norm: layer`. A loader of your own leaves out a last "
                "batch of one image with `drop_last=True`."
            )
        return super().forward(embedding)

    def _has_batch_norm(self) -> bool:
        """Whether a layer takes statistics of the images of this process alone."""
        return any(isinstance(layer, nn.BatchNorm1d) for layer in self)

    def unit(self, embedding: Tensor) -> Tensor:
        """The output as float32, L2-normalised."""
        return F.normalize(self(embedding).float(), dim=1)

    @contextmanager
    def keep_statistics(self) -> Iterator[Self]:
        """Context in which batch norms leave their running statistics as they are, in training mode as well."""
        layers = [layer for layer in self if isinstance(layer, _BatchNorm)]
        for layer in layers:
            layer.track_running_stats = False
        try:
            yield self
        finally:
            for layer in layers:
                layer.track_running_stats = True


def _norm(kind: HeadNorm, width: int, *, affine: bool) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(width, affine=affine)
    return nn.LayerNorm(width, elementwise_affine=affine)
