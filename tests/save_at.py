"""A checkpoint in the middle of a run, for what is to go on from there."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer


class SaveAt(Callback):
    """Writes a checkpoint after one step of a run."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
