"""Position of a resumed run in its epoch and its schedule, where batches, steps or epochs are of another size.

The run goes on at the same images of the epoch and at the same fraction of the training: with twice the global batch,
half of the steps of the old kind are done and half of the steps of the new kind are left. The global step is not
changed, so that logs and checkpoints stay in order; :attr:`TrainingModule.step_offset` is what it differs by from the
position in the schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim.lr_scheduler import LambdaLR

from ppssl.utils.lightning_internals import batches_begun, load_training_data, recount_batches
from ppssl.utils.optim import global_batch_size

__all__ = [
    "EpochSize",
    "OptimizerSettings",
    "announce",
    "continue_epoch",
    "position_in_schedule",
]


@dataclass(frozen=True)
class EpochSize:
    """Sizes that say how far a number of batches and steps is.

    Attributes:
        batch: Images of all processes in a batch; ``None``: unknown.
        batches: Batches of a process in an epoch.
        steps: Optimizer steps in an epoch.
    """

    batch: int | None
    batches: float
    steps: float

    @classmethod
    def of(cls, trainer: Trainer) -> EpochSize:
        """Return the sizes of a training run."""
        loader = load_training_data(trainer)
        source: Any = getattr(trainer, "datamodule", None) or loader
        batches = trainer.num_training_batches
        steps = (
            math.ceil(batches / trainer.accumulate_grad_batches) if batches < math.inf else batches
        )
        return cls(global_batch_size(source, trainer.world_size), batches, steps)


def continue_epoch(checkpoint: dict[str, Any], before: EpochSize, now: EpochSize) -> None:
    """Count the batches of an epoch that is under way in a checkpoint anew, if they are of another size.

    At most one batch of images is used twice; an epoch that would be complete is trained to its end with one batch.

    Args:
        checkpoint: The checkpoint that is being loaded.
        before: Sizes before the interruption.
        now: Sizes of the resumed run.
    """
    old, new = (1, 1) if before.batch is None or now.batch is None else (before.batch, now.batch)
    if before != now:
        recount_batches(checkpoint, lambda done: int(min(done * old // new, now.batches - 1)))


def position_in_schedule(trainer: Trainer, now: EpochSize, *, at_epoch_end: bool) -> int:
    """Return the optimizer steps that a run of the present sizes would have made up to here.

    Args:
        trainer: Its counters are those of the checkpoint.
        now: Sizes of the resumed run.
        at_epoch_end: Whether the checkpoint was written at the end of an epoch, so that the next one begins.
    """
    epochs = trainer.max_epochs
    by_epochs = epochs is not None and epochs != -1 and now.steps < math.inf
    if not by_epochs or -1 < trainer.max_steps <= now.steps * (epochs or 0):
        return trainer.global_step  # the run ends by steps
    begun = 0 if at_epoch_end else batches_begun(trainer)
    return int(trainer.current_epoch * now.steps + begun // trainer.accumulate_grad_batches)


class OptimizerSettings:
    """Options of the optimizers and schedules of a Trainer as its model made them, before a checkpoint is loaded.

    A checkpoint holds the options of the run before, such as the learning rate of another batch size.

    Args:
        trainer: A Trainer whose optimizers are made.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.groups = [
            [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]
        self.rates = [list(config.scheduler.base_lrs) for config in trainer.lr_scheduler_configs]

    def apply(self, trainer: Trainer, position: int) -> None:
        """Set them again, after the checkpoint is loaded; schedules by step go on at ``position``.

        Args:
            trainer: The Trainer.
            position: Optimizer steps.
        """
        for optimizer, groups in zip(trainer.optimizers, self.groups, strict=True):
            if len(groups) != len(optimizer.param_groups):
                return  # a callback has added some
            for group, options in zip(optimizer.param_groups, groups, strict=True):
                group |= {k: v for k, v in options.items() if k != "lr"}
        for config, rates in zip(trainer.lr_scheduler_configs, self.rates, strict=True):
            schedule = config.scheduler
            if not isinstance(schedule, LambdaLR) or config.interval != "step":
                continue
            schedule.last_epoch, schedule.base_lrs = position, rates
            groups = schedule.optimizer.param_groups
            for group, rate, factor in zip(groups, rates, schedule.lr_lambdas, strict=True):
                group["lr"] = rate * factor(position)


def announce(trainer: Trainer, position: int) -> None:
    """Say where in the schedule the run goes on."""
    total = trainer.estimated_stepping_batches
    rank_zero_info(
        f"Batches or steps are of another size than before: the schedule goes on at {100 * position / total:.1f} % of "
        f"the run, step {position} of {total}."
    )
