"""The moving average of a model's weights, by Lightning's callback, begun without a bias to the first steps."""

from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["MovingAverage", "moving_average"]


class MovingAverage(WeightAveraging):
    """Validates, and ends with, the exponential moving average of all weights; checkpoints hold it as ``state_dict``.

    Args:
        decay: Of the average, in (0, 1); in the first steps a smaller one, see :func:`moving_average`.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be in (0, 1), got {decay}.")
        super().__init__(avg_fn=partial(moving_average, decay=decay))
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the model; before that it makes what depends on the data, which Lightning does after this."""
        pl_module.setup(stage)
        super().setup(trainer, pl_module, stage)


def moving_average(average: Tensor, current: Tensor, updates: Any, *, decay: float) -> Tensor:
    """``d * average + (1 - d) * current``, ``d = min(decay, (1 + updates) / (10 + updates))``, as TensorFlow has it."""
    d = min(decay, (1 + int(updates)) / (10 + int(updates)))
    return d * average + (1 - d) * current
