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
    equal batches; with another loader this callback compares size and end before each step, which costs a small
    collective operation and a read by the host.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the numbers of batches, where they are known.

        Raises:
            UserError: They differ.
        """
        count = trainer.num_training_batches
        counts = _of_all(trainer, -1 if count == float("inf") else int(count))
        _refuse("training batches in an epoch", [str(count) for (count,) in counts])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compare the sizes of the batches, and whether one is the last: Lightning itself waits for all in the next.

        Raises:
            UserError: They differ.
        """
        index = batch.get("index") if isinstance(batch, Mapping) else None
        size = len(index) if isinstance(index, Sized) else -1
        last = trainer.is_last_batch
        of_all = _of_all(trainer, size, int(last))
        _refuse("images in a training batch", [str(size) for size, _ in of_all])
        count = batch_idx + 1
        more = f"more than {count}"
        _refuse("training batches in an epoch", [str(count) if end else more for _, end in of_all])


def _of_all(trainer: Trainer, *numbers: int) -> list[list[int]]:
    """The numbers of each process; nothing where they are equal by construction."""
    data: Any = getattr(trainer, "datamodule", None)
    if trainer.world_size == 1 or hasattr(data, "num_train"):
        return []
    own = torch.tensor(numbers, device=trainer.strategy.root_device)
    gathered: list[list[int]] = trainer.strategy.all_gather(own).tolist()
    return gathered


def _refuse(what: str, counts: list[str]) -> None:
    """Raise, in all processes, if their counts differ."""
    if len(set(counts)) > 1:
        raise UserError(
            f"The processes have different numbers of {what}: {', '.join(counts)}. Their keys cannot be joined: "
            f"{_REMEDY}."
        )
