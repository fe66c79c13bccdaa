"""Student head: projects embeddings into the embedding space of the teacher (:ref:`D5 <d5>`)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TAU_BOUNDS", "StudentHead"]

TAU_BOUNDS = (math.log(0.01), math.log(1.0))
"""Bounds of log tau_S."""


class StudentHead(nn.Module):
    """Projection W with temperature tau_S: ``(B, D) -> (B, e)`` float32, L2-normalised.

    Args:
        dim: D.
        teacher_dim: e.
        kind: ``"linear"``, or ``"mlp"`` with one hidden layer of D units.
    """

    def __init__(self, dim: int, teacher_dim: int, kind: Literal["linear", "mlp"]) -> None:
        super().__init__()
        hidden = [nn.Linear(dim, dim), nn.ReLU()] if kind == "mlp" else []
        self.projection = nn.Sequential(*hidden, nn.Linear(dim, teacher_dim))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.1)))

    def forward(self, embedding: Tensor) -> Tensor:
        """S = normalise(W p)."""
        return F.normalize(self.projection(embedding).float(), dim=-1)

    @property
    def temperature(self) -> Tensor:
        """Temperature tau_S in [0.01, 1]; the learned parameter itself is clamped, so it keeps its gradient."""
        if not self.training:  # the last step may have left the bounds
            return self.log_temperature.clamp(*TAU_BOUNDS).exp()
        with torch.no_grad():
            self.log_temperature.clamp_(*TAU_BOUNDS)
        return self.log_temperature.exp()
