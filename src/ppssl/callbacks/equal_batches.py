"""Several processes with a data loader of one's own: all must have batches of the same size, and as many of them."""

from collections.abc import Mapping, Sized
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ppssl.utils.errors import UserError

__all__ = ["EqualBatches"]

_REMEDY = "use `DatasetDataModule`, or a DataLoader with `drop_last=True`, which the Trainer splits equally"


class EqualBatches(Callback):
    """Callback that ends a run of several processes whose batches differ, in place of waiting for one another forever.

    Keys and maps of all processes are joined in one operation that needs equal sizes. The data modules of ppssl serve
    equal batches; with another loader this callback compares the sizes before each step, which costs a small collective
    operation and a read by the host.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the numbers of batches, where they are known.

        Raises:
            UserError: They differ.
        """
        count = trainer.num_training_batches
        _compare(
            trainer, -1 if count == float("inf") else int(count), "training batches in an epoch"
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compare the sizes of the batches.

        Raises:
            UserError: They differ.
        """
        index = batch.get("index") if isinstance(batch, Mapping) else None
        _compare(
            trainer, len(index) if isinstance(index, Sized) else -1, "images in a training batch"
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the others that there is no batch before this validation: they may have one.

        Raises:
            UserError: Another process has one more batch.
        """
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step > 0:
            _compare(trainer, 0, "images in a training batch")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the others that there is no further batch in this epoch.

        Raises:
            UserError: Another process has one more batch.
        """
        _compare(trainer, 0, "images in a training batch")


def _compare(trainer: Trainer, count: int, what: str) -> None:
    """Raise in all processes if their counts differ."""
    data: Any = getattr(trainer, "datamodule", None)
    if trainer.world_size == 1 or hasattr(data, "num_train"):
        return
    device = trainer.strategy.root_device
    counts = trainer.strategy.all_gather(torch.tensor(count, device=device)).reshape(-1).tolist()
    if len(set(counts)) > 1:
        raise UserError(
            f"The processes have different numbers of {what}: {', '.join(map(str, counts))}. Their keys cannot be "
            f"joined: {_REMEDY}."
        )
