"""Anchor as a loss plugin: keeps embeddings near those of the starting encoder (:ref:`R3 <r3>`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F

from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep
from ppssl.utils.checks import check_range
from ppssl.utils.errors import UserError

if TYPE_CHECKING:
    from ppssl.encoder import EncoderInfo

__all__ = ["Anchor"]


class Anchor(LossPlugin):
    """Anchor to the starting encoder: ``L = mean (1 - cos(p, p_0))``.

    p is the embedding of the query's view, p_0 the embedding of the same view by a frozen copy of the encoder as it was
    before training. It keeps what pretrained weights know while the contrast adds to it; without pretrained weights it
    makes no sense. Each step takes one more forward pass without gradient.

    Args:
        loss_weight: Weight of the term.
    """

    def __init__(self, loss_weight: float = 3.0) -> None:
        super().__init__()
        check_range(">= 0", loss_weight=loss_weight)
        self.loss_weight = loss_weight

    def build(self, encoder: EncoderInfo) -> None:
        """Copy the encoder; the copy is part of checkpoints, so that a resumed run has the same anchor.

        Raises:
            UserError: The encoder's description has no copy to offer.
        """
        if encoder.frozen_copy is None:
            raise UserError("`Anchor` needs the encoder itself: train it as a plugin of PPSSL.")
        self.start = encoder.frozen_copy()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the copy stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "start"):
            self.start.eval()
        return self

    def weight(self, progress: float) -> float:
        """The same throughout the training."""
        return self.loss_weight

    def forward(self, step: TrainingStep) -> LossTerm:
        """``1 - cos(p, p_0)`` of each image, ``(B,)`` float32."""
        with torch.no_grad():
            start = self.start(step.image)
        cosine = F.cosine_similarity(step.embedding.float(), start.float(), dim=1)
        return LossTerm(1 - cosine, {"cosine": cosine.detach().mean()})
