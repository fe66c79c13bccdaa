"""Exact resumption: a callback that adds to checkpoints what Lightning's lack, such as the sums of epoch means.

Sample order, augmentation and step noise are functions of counters (:mod:`ppssl.utils.randomness`), which Lightning
restores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.checkpointing.atomic import RESUME_ENTRY
from ppssl.checkpointing.position import (
    EpochSize,
    OptimizerSettings,
    announce,
    continue_epoch,
    position_in_schedule,
)
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.lightning_internals import (
    add_to_epoch_sum,
    begin_next_epoch,
    complete_epoch,
    epoch_sums,
    forget_step_values,
    loop_position,
    next_log_line,
    next_log_step,
    set_log_step,
)
from ppssl.utils.randomness import resolve_seed

__all__ = ["ResumeState"]

_REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.sum,
    "sum": torch.sum,
    "max": torch.max,
    "min": torch.min,
}
"""How the parts of an epoch's statistic are combined, by the statistic's reduction."""


class ResumeState(Callback):
    """Callback that makes a resumed run bitwise equal to the uninterrupted one; PPSSL and the classifiers have it.

    It adds to every checkpoint:

    - The sums behind the epoch means (``self.log(..., on_epoch=True)`` of numbers) so far, of every process.
    - The next line of the log. Lightning writes it after the checkpoint, so a run killed in between would lose it. The
      resumed run writes it, perhaps for the second time.
    - At an epoch's end, the epoch as complete, so that the next one begins even with ``max_steps``.
    - The settings that determine a step; a resumed run with other settings warns. It goes on at the same images of the
      epoch and the same fraction of the schedule (:mod:`ppssl.checkpointing.position`).
    - Whether it was written between two steps. A checkpoint that a signal or an error left in mid-step cannot be
      resumed exactly, and :func:`ppssl.checkpointing.atomic.newest_checkpoint` passes it over.
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Any]] = {}
        self._line: dict[str, Any] | None = None
        self._settings: dict[str, Any] = {}
        self._saved_settings: dict[str, Any] = {}
        self._log_step: int | None = None
        self._at_epoch_end = False
        self._resumed: dict[str, Any] | None = None
        self._made: OptimizerSettings | None = None
        self._size: EpochSize | None = None

    # -- saving ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry ``resume``, and complete the epoch at its end."""
        position = loop_position(trainer)
        if position.after_epoch:
            complete_epoch(checkpoint)
        self._add_sums(trainer)
        sums = {} if position.between_epochs else self._sums | epoch_sums(trainer)
        checkpoint[RESUME_ENTRY] = {
            "mid_step": position.in_step,
            "at_epoch_end": position.between_epochs,
            "line": next_log_line(trainer),
            "log_step": next_log_step(trainer),
            "sums": sums,
            "settings": self._settings,
            "size": None if self._size is None else asdict(self._size),
            "step_offset": getattr(pl_module, "step_offset", 0),
        }

    # -- resuming -------------------------------------------------------------------------------------------------

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the entry ``resume``; checkpoints without it are resumed as Lightning does."""
        entry = checkpoint.get(RESUME_ENTRY)
        if entry is None or trainer.state.fn != "fit":
            return
        self._sums, self._line = entry["sums"], entry["line"]
        self._log_step, self._at_epoch_end = entry["log_step"], entry["at_epoch_end"]
        self._saved_settings = entry["settings"]
        self._resumed = entry
        if entry.get("size") and not entry["at_epoch_end"]:
            continue_epoch(checkpoint, EpochSize(**entry["size"]), EpochSize.of(trainer))
        if entry["mid_step"]:
            rank_zero_warn(
                "This checkpoint was written in mid-step: part of that step is done twice."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of settings that have changed, and write the line that the log may lack."""
        self._settings = settings = _settings(trainer, pl_module)
        changed = [
            f"`{name}` {_shorten(old)} -> {_shorten(settings[name])}"
            for name, old in self._saved_settings.items()
            if settings.get(name, old) != old
        ]
        if changed:
            rank_zero_warn(f"The resumed run is set otherwise than before: {', '.join(changed)}.")
        self._saved_settings = {}
        self._made = OptimizerSettings(trainer)
        line, self._line = self._line, None
        if line is not None:
            for logger in trainer.loggers:
                logger.log_metrics(line["metrics"], line["step"])
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on at the same fraction of the run; begin the next epoch if the checkpoint is of an epoch's end.

        Raises:
            UserError: The processes resume from different steps.
        """
        _check_same_step(trainer)
        self._continue_schedule(trainer, pl_module)
        if self._at_epoch_end:
            begin_next_epoch(trainer)
        self._at_epoch_end = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the saved sums to the epoch's, and number the log's lines as before.

        Values of earlier steps are not logged again: Lightning repeats them, which a resumed run cannot.
        """
        forget_step_values(trainer)
        self._add_sums(trainer)
        if self._log_step is not None:
            set_log_step(trainer, self._log_step)
            self._log_step = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the saved sums to the epoch's, before a checkpoint can be written."""
        self._add_sums(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch means of which the rest of the epoch has logged nothing."""
        for saved in self._sums.values():
            parts = saved["parts"]
            if not saved["together"]:
                parts = _parts_of_this_process(trainer, parts)
            if len(parts["value"]):
                value = _REDUCE[saved["reduce"]](parts["value"])
                size = parts["size"].sum() if "size" in parts else 1
                pl_module.log(saved["name"], value / size, logger=saved["logger"], batch_size=1)
        self._sums = {}

    def _continue_schedule(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the options of optimizer and schedule to those of this run, and the schedule to its position."""
        entry, self._resumed = self._resumed, None
        made, self._made = self._made, None
        self._size = now = EpochSize.of(trainer)
        if entry is None or not entry.get("size") or made is None:
            return
        before = EpochSize(**entry["size"])
        step, offset = trainer.global_step, entry["step_offset"]
        if before != now:
            offset = position_in_schedule(trainer, now, at_epoch_end=self._at_epoch_end) - step
            announce(trainer, step + offset)
        pl_module.step_offset = offset
        made.apply(trainer, step + offset)

    def _add_sums(self, trainer: Trainer) -> None:
        """Add each saved sum to the epoch's once something is logged under its key again."""
        self._sums = {
            key: saved
            for key, saved in self._sums.items()
            if not add_to_epoch_sum(trainer, key, **_parts_of_this_process(trainer, saved["parts"]))
        }


def _parts_of_this_process(trainer: Trainer, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts that this process continues: several if there were more processes than now, none if fewer."""
    rank, world, device = trainer.global_rank, trainer.world_size, trainer.strategy.root_device
    return {name: values[rank::world].to(device) for name, values in parts.items()}


def _check_same_step(trainer: Trainer) -> None:
    """Raise if the processes resume from different steps, which happens if they see different files."""
    step = torch.tensor(trainer.global_step, device=trainer.strategy.root_device)
    steps = trainer.strategy.all_gather(step).reshape(-1).tolist()
    if len(set(steps)) > 1:
        raise UserError(
            f"The processes go on from different steps: {steps}. `trainer.default_root_dir` must be a folder that all "
            "machines see, or `--resume` a checkpoint that all of them have."
        )


def _settings(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """All settings that determine the content of a step, by name."""
    data: Any = getattr(trainer, "datamodule", None)
    settings = {
        "seed": resolve_seed(getattr(pl_module, "seed", None)),
        "processes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "steps in all": trainer.estimated_stepping_batches,
    }
    for name, owner in (("model", pl_module), ("data", data)):
        init_args = owner.config()["init_args"] if isinstance(owner, Configurable) else {}
        settings |= {f"{name}.{key}": str(value) for key, value in init_args.items()}
    for name in ("data.num_workers", "data.prefetch_factor"):  # without effect on any step
        settings.pop(name, None)
    return settings


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
