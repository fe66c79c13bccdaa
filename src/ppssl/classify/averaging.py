"""Exponential moving average of a model's weights, by Lightning's callback, with a smaller decay in the first steps."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ppssl.utils.checks import check_range
from ppssl.utils.lightning_internals import averaged_model

__all__ = ["MovingAverage", "decay_of_update", "update_average"]


class MovingAverage(WeightAveraging):
    """Callback that keeps the exponential moving average of all weights, which is validated and used after training.

    It is updated after each optimizer step (:func:`update_average`) and is on the device of the model. Checkpoints hold
    it as ``state_dict``.

    Args:
        decay: Decay of the average, in (0, 1); smaller in the first steps, see :func:`decay_of_update`.
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_range("in (0, 1)", decay=decay)
        super().__init__()
        self.decay = decay
        self._updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the model on its device, to which Lightning moves it later.

        The copy is renewed after the model's own setup, which creates layers.
        """
        if stage == "fit":
            pl_module.to(trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after an optimizer step; Lightning's own update reads a count from the device."""
        if trainer.global_step > self._updates:
            decay = decay_of_update(self._updates, self.decay)
            update_average(averaged_model(self), pl_module, decay)
            self._updates = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's updates at epochs' ends are not used."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates, under Lightning's name."""
        return {"latest_update_step": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self._updates = state_dict["latest_update_step"]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update an average in place; on a GPU the host does not wait.

    Args:
        average: A copy of ``model``, on the same device. Floating-point parameters and buffers become
            ``decay * average + (1 - decay) * model``, others those of ``model``.
        model: The model.
        decay: In [0, 1].
    """
    pairs = list(zip(_tensors(average), _tensors(model), strict=True))
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    old, new = map(list, zip(*floating, strict=True))
    get_ema_multi_avg_fn(decay)(old, new, None)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def decay_of_update(updates: int, decay: float) -> float:
    """The decay of an update, as in TensorFlow: ``min(decay, (1 + updates) / (10 + updates))``; 0 for the first.

    Args:
        updates: Number of updates before.
        decay: The decay that it grows to.
    """
    return 0.0 if updates == 0 else min(decay, (1 + updates) / (10 + updates))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    return (tensor.detach() for tensor in chain(model.parameters(), model.buffers()))
