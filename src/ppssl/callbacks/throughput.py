"""Throughput of training: images per second, and the share of time spent waiting for data."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ppssl.callbacks.diagnostics import diagnostic

__all__ = ["Throughput"]


class Throughput(Callback):
    """Log ``train/images_per_second`` and ``train/data_wait`` (share of the time, in [0, 1]) in each epoch."""

    def __init__(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._started = self._batch_ended = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that is resumed within an epoch does not start an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._images, self._waited = 0, 0.0
        self._started = self._batch_ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the end of the last batch as waiting."""
        self._waited += time.perf_counter() - self._batch_ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all processes."""
        with diagnostic(self, trainer, "images per second", collective=True):
            self._images += len(batch["index"]) * trainer.world_size
        self._batch_ended = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of validation."""
        paused = time.perf_counter() - self._batch_ended
        self._started += paused
        self._batch_ended += paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of the epoch."""
        elapsed = self._batch_ended - self._started
        if elapsed > 0:
            values = {"data_wait": self._waited / elapsed}
            if self._images:  # else the batches do not tell them
                values["images_per_second"] = self._images / elapsed
            pl_module.log_dict(
                {f"train/{name}": value for name, value in values.items()}, batch_size=1
            )
