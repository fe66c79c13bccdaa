"""Saliency branch: predicts the saliency target from the feature map (:ref:`F8 <f8>`, :ref:`D12 <d12>`)."""

import torch
from torch import Tensor, nn

from ppssl.utils.checks import check_range

__all__ = ["SaliencyBranch"]


class SaliencyBranch(nn.Module):
    """Branch of limited capacity: 1x1 convolution, GroupNorm, ReLU, maximum over channels, softmax over cells.

    GroupNorm replaces the batch norm of :ref:`F8 <f8>`, so that no image depends on another (:ref:`D16 <d16>`). The
    temperature of the softmax is learned.

    Args:
        channels: C of the feature map.
        hidden: Channels of the convolution, of which the maximum is taken.
        upscale: Cells per side that each place of the feature map is split into, by pixel shuffle.
    """

    def __init__(self, channels: int, hidden: int = 32, upscale: int = 1) -> None:
        super().__init__()
        check_range(">= 1", hidden=hidden, upscale=upscale)
        self.conv = nn.Conv2d(channels, hidden * upscale**2, 1)
        self.shuffle = nn.PixelShuffle(upscale)
        self.norm = nn.GroupNorm(1, hidden)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Log A: ``(B, C, h, w) -> (B, h * upscale, w * upscale)`` float32, normalised over all cells of an image."""
        responses = self.norm(self.shuffle(self.conv(feature_map))).relu().amax(dim=1).float()
        logits = responses / self.log_temperature.exp()
        return logits.flatten(1).log_softmax(dim=1).unflatten(1, logits.shape[1:])
