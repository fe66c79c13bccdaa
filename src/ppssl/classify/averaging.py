"""Exponential moving average of a model's weights, by Lightning's callback, with a smaller decay in the first steps."""

from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["MovingAverage", "moving_average"]


class MovingAverage(WeightAveraging):
    """Callback that keeps the exponential moving average of all weights, which is validated and used after training.

    Checkpoints hold the average as ``state_dict``.

    Args:
        decay: Decay of the average, in (0, 1); smaller in the first steps, see :func:`moving_average`.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be in (0, 1), got {decay}.")
        super().__init__(avg_fn=partial(moving_average, decay=decay))
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the model after its own setup, which Lightning would call later and which creates layers."""
        pl_module.setup(stage)
        super().setup(trainer, pl_module, stage)


def moving_average(average: Tensor, current: Tensor, updates: Any, *, decay: float) -> Tensor:
    """Update an average as in TensorFlow: ``d * average + (1 - d) * current``, where d grows to ``decay``.

    ``d = min(decay, (1 + updates) / (10 + updates))``.
    """
    d = min(decay, (1 + int(updates)) / (10 + int(updates)))
    return d * average + (1 - d) * current
