"""What a checkpoint needs beside Lightning's own state, so that a resumed run is the uninterrupted one, bit for bit.

Order, views and step noise are functions of counters (:mod:`ppssl.utils.randomness`), which Lightning restores. Left
over
are the sums behind epoch means, the line of the log that was about to be written, and the counters at an epoch's end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.checkpointing.atomic import RESUME_ENTRY
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import resolve_seed

__all__ = ["ResumeState"]

_REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.sum,
    "sum": torch.sum,
    "max": torch.max,
    "min": torch.min,
}
"""What becomes of several parts of an epoch's statistic."""


class ResumeState(Callback):
    """Adds to every checkpoint of a run what Lightning leaves out; :class:`ppssl.PPSSL` and the classifiers have it.

    - Epoch means (``self.log(..., on_epoch=True)`` of numbers): their sums so far, of every process.
    - The log's line of this step or epoch: Lightning writes it after the checkpoint, and a run killed in between had
      lost it. The resumed run writes it, perhaps for the second time.
    - At an epoch's end the epoch counts as complete, so that with ``max_steps`` too the next one begins.
    - The settings that decide what a step does; a resumed run with others warns.
    - Whether it was written between two steps. What a signal or an error left in mid-step cannot be resumed exactly,
      and :func:`ppssl.checkpointing.atomic.newest_checkpoint` passes it over.
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Any]] = {}
        self._line: dict[str, Any] | None = None
        self._settings: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._log_step: int | None = None
        self._new_epoch = False

    # -- saving ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry, and put the counters in order."""
        loop = trainer.fit_loop.epoch_loop
        epochs: Any = trainer.fit_loop.epoch_progress
        batches: Any = loop.batch_progress
        epoch_ends = epochs.current.processed > epochs.current.completed
        batch_ends = not epoch_ends and batches.current.processed > batches.current.completed
        if epoch_ends:
            saved = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            for counters in (saved["total"], saved["current"]):
                counters["completed"] = counters["processed"]
        at_end = epochs.current.ready == epochs.current.processed
        self._add_sums(trainer)
        checkpoint[RESUME_ENTRY] = {
            "mid_step": batches.current.ready > batches.current.processed,
            "at_epoch_end": at_end,
            "line": self._next_line(trainer, batch_ends) if epoch_ends or batch_ends else None,
            "log_step": loop._batches_that_stepped + (batch_ends and not loop._should_accumulate()),
            "sums": {} if at_end else self._sums | _epoch_sums(trainer),
            "settings": self._settings,
        }

    @staticmethod
    def _next_line(trainer: Trainer, batch_ends: bool) -> dict[str, Any] | None:
        """What Lightning is about to write to the loggers."""
        connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
        if batch_ends and (loop._should_accumulate() or not connector.should_update_logs):
            return None
        metrics = convert_tensors_to_scalars(connector.metrics["log"])
        step = loop._batches_that_stepped - (0 if batch_ends else 1)
        return (
            {"metrics": {"epoch": trainer.current_epoch} | metrics, "step": step}
            if metrics
            else None
        )

    # -- going on -------------------------------------------------------------------------------------------------

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the entry over; checkpoints without one are resumed as Lightning does."""
        entry = checkpoint.get(RESUME_ENTRY)
        if entry is None or trainer.state.fn != "fit":
            return
        self._sums, self._line = entry["sums"], entry["line"]
        self._log_step, self._new_epoch = entry["log_step"], entry["at_epoch_end"]
        self._before = entry["settings"]
        if entry["mid_step"]:
            rank_zero_warn(
                "This checkpoint was written in mid-step: part of that step is done twice."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is set otherwise than before, and write the line that may be missing."""
        self._settings = now = _settings(trainer, pl_module)
        changed = [
            f"`{name}` {_short(old)} -> {_short(now[name])}"
            for name, old in self._before.items()
            if now.get(name, old) != old
        ]
        if changed:
            rank_zero_warn(f"The resumed run is set otherwise than before: {', '.join(changed)}.")
        self._before = {}
        line, self._line = self._line, None
        if line is not None:
            for logger in trainer.loggers:
                logger.log_metrics(line["metrics"], line["step"])
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a whole epoch the next one begins, also where Lightning counts steps and would finish that one.

        Raises:
            UserError: The processes go on from different steps.
        """
        _check_same_step(trainer)
        if self._new_epoch:
            trainer.fit_loop.epoch_loop.restarting = False
        self._new_epoch = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the sums of before to those that the resumed run has begun; the log's steps are counted on.

        A value is of the step that logs it alone: Lightning repeats it in those that log none, and a resumed run
        could not.
        """
        for metric in trainer.fit_loop.epoch_loop._results.values():
            metric._forward_cache = None
        self._add_sums(trainer)
        if self._log_step is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._log_step
            self._log_step = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See :meth:`on_train_batch_start`; before a checkpoint can be written."""
        self._add_sums(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the rest of the epoch has not logged again; nothing of an epoch is for the next one."""
        for saved in self._sums.values():
            parts = saved["parts"] if saved["together"] else _own_parts(trainer, saved["parts"])
            if len(parts["value"]):
                value = _REDUCE[saved["reduce"]](parts["value"])
                size = parts["size"].sum() if "size" in parts else 1
                pl_module.log(saved["name"], value / size, logger=saved["logger"], batch_size=1)
        self._sums = {}

    def _add_sums(self, trainer: Trainer) -> None:
        """To what was logged once since: with addition in this order the mean is the same to the last bit."""
        results = trainer.fit_loop.epoch_loop._results
        for key in [key for key in self._sums if key in results and not results[key].has_reset]:
            metric, mine = results[key], _own_parts(trainer, self._sums.pop(key)["parts"])
            if not len(mine["value"]):  # more processes than before
                continue
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                own = metric.value[None]
                metric.value = metric.meta.reduce_fx(torch.cat([own, mine["value"]]))
            else:
                metric.value = metric.value + mine["value"].sum()
            if metric.meta.is_mean_reduction:
                metric.cumulated_batch_size = metric.cumulated_batch_size + mine["size"].sum()
            metric._computed = None


def _epoch_sums(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Every epoch mean by Lightning's key: name, kind and ``parts`` (sum or extreme), ``(processes,)`` each."""

    def everywhere(tensor: Tensor) -> Tensor:
        return trainer.strategy.all_gather(tensor).reshape(-1).cpu()

    sums: dict[str, dict[str, Any]] = {}
    for key, metric in trainer.fit_loop.epoch_loop._results.items():
        meta = metric.meta
        if not metric.is_tensor or not meta.on_epoch or metric.has_reset:
            continue
        sums[key] = {
            "name": meta.forked_name(on_step=False),
            "reduce": meta.reduce_fx.__name__,
            "logger": meta.logger,
            "together": meta.sync.should,
            "parts": {"value": everywhere(metric.value)},
        }
        if meta.is_mean_reduction:
            sums[key]["parts"]["size"] = everywhere(metric.cumulated_batch_size)
    return sums


def _own_parts(trainer: Trainer, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's; of several where there were more processes before."""
    rank, world, device = trainer.global_rank, trainer.world_size, trainer.strategy.root_device
    return {name: values[rank::world].to(device) for name, values in parts.items()}


def _check_same_step(trainer: Trainer) -> None:
    """Each process looks for its checkpoint by itself; on several machines they may not see the same files."""
    step = torch.tensor(trainer.global_step, device=trainer.strategy.root_device)
    steps = trainer.strategy.all_gather(step).reshape(-1).tolist()
    if len(set(steps)) > 1:
        raise UserError(
            f"The processes go on from different steps: {steps}. `trainer.default_root_dir` must be a folder that all "
            "machines see, or `--resume` a checkpoint that all of them have."
        )


def _settings(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What decides the content of each step."""
    data: Any = getattr(trainer, "datamodule", None)
    found = {
        "seed": resolve_seed(getattr(pl_module, "seed", None)),
        "processes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "steps in all": trainer.estimated_stepping_batches,
    }
    for name, owner in (("model", pl_module), ("data", data)):
        given = owner.config()["init_args"] if isinstance(owner, Configurable) else {}
        found |= {f"{name}.{key}": str(value) for key, value in given.items()}
    found.pop("data.num_workers", None)  # has no say
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
