"""All private names of Lightning that ppssl uses: what for, why, and what breaks without them.

Private is what starts with an underscore or is not in Lightning's documentation, as all of ``trainer.fit_loop`` is not.
Any release may change it, so setup.cfg bounds Lightning's version. Before raising the bound, run
tests/utils/test_lightning_internals.py, which tests every function here, and tests/integration/test_resume.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

__all__ = [
    "LoopPosition",
    "PublicModelCheckpoint",
    "add_to_epoch_sum",
    "averaged_model",
    "batches_begun",
    "begin_next_epoch",
    "complete_epoch",
    "epoch_sums",
    "forget_step_values",
    "is_accumulating",
    "is_last_batch",
    "load_training_data",
    "loop_position",
    "next_log_line",
    "next_log_step",
    "recount_batches",
    "replace_sync_batchnorm",
    "request_termination",
    "set_csv_writer",
    "set_log_step",
]


@dataclass(frozen=True)
class LoopPosition:
    """Position of a run in the training loop, as :func:`loop_position` returns it."""

    in_step: bool  # the forward pass, backward pass or optimizer step of a batch is under way
    between_batches: bool  # no batch is under way, nor the hooks after one
    after_batch: bool  # in the hooks after a batch, such as `on_train_batch_end`
    after_epoch: bool  # in the hooks after an epoch, such as `on_train_epoch_end`
    between_epochs: bool  # all batches of every epoch so far are done


def loop_position(trainer: Trainer) -> LoopPosition:
    """Return whether a run is in a step, between batches or at an epoch's end (``epoch_progress``, ``batch_progress``).

    The public counters do not say whether a step is half done. Without it its checkpoint would look like any other.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current  # Lightning's type has no `processed`
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    after_epoch = epochs.processed > epochs.completed
    return LoopPosition(
        in_step=batches.ready > batches.processed,
        between_batches=batches.ready == batches.completed,
        after_batch=not after_epoch and batches.processed > batches.completed,
        after_epoch=after_epoch,
        between_epochs=epochs.ready == epochs.processed,
    )


def batches_begun(trainer: Trainer) -> int:
    """Return the number of batches of the epoch that this process has begun (``batch_progress.current.ready``).

    Public counters count optimizer steps. Without it a run resumed in mid-epoch trains on its first images again.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the gradients of the last batch wait for those of further batches (``_should_accumulate``).

    Counting is not enough: an epoch's last batch ends in a step. Without it checkpoints lose the gradients so far.
    """
    return trainer.fit_loop.epoch_loop._should_accumulate()


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the current batch is the last of the epoch or of ``max_steps`` (``_is_training_done``).

    Without it a run that is resumed from a checkpoint after an epoch's last batch lacks validation and epoch means.
    """
    return trainer.fit_loop.epoch_loop._is_training_done


def load_training_data(trainer: Trainer) -> Any:
    """Create and return the training loader (``fit_loop.setup_data``); Lightning creates it after a model's ``setup``.

    ``estimated_stepping_batches`` does too, but not if ``max_epochs`` is -1. Without it a model cannot size its queue.
    """
    trainer.fit_loop.setup_data()
    return trainer.train_dataloader


def complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Mark the epoch that has just ended as complete in a checkpoint (``epoch_progress``).

    Lightning counts it after writing. Without it a run with ``max_steps`` resumes with the ``current_epoch`` of before.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counters in (progress["total"], progress["current"]):
        counters["completed"] = counters["processed"]


def recount_batches(checkpoint: dict[str, Any], recount: Callable[[int], int]) -> None:
    """Replace the number of batches of the current epoch that a checkpoint counts as done (``batch_progress``).

    Without it a run whose batches have another size than before repeats or leaves out a part of the epoch.
    """
    current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    done, completed = recount(current["processed"]), current["completed"] - current["processed"]
    current |= dict.fromkeys(("ready", "started", "processed"), done)
    current["completed"] = done + completed  # one less in the hooks after a batch


def begin_next_epoch(trainer: Trainer) -> None:
    """Let a run that was resumed at an epoch's end begin the next epoch (``epoch_loop.restarting``).

    Without it a run with ``max_steps`` takes up the old epoch, which has no batches left, and logs it as empty.
    """
    trainer.fit_loop.epoch_loop.restarting = False


def next_log_line(trainer: Trainer) -> dict[str, Any] | None:
    """Return the ``metrics`` and ``step`` that Lightning is about to write to the loggers; ``None``: nothing.

    They are in ``_logger_connector``; the public ``logged_metrics`` mixes them with those of earlier steps. Lightning
    writes the line after the checkpoint. Without it a run that is killed in between has lost it.
    """
    connector, position = trainer._logger_connector, loop_position(trainer)
    logs = position.after_batch and connector.should_update_logs and not is_accumulating(trainer)
    if not logs and not position.after_epoch:
        return None
    metrics = {name: value.item() for name, value in connector.metrics["log"].items()}
    step = trainer.fit_loop.epoch_loop._batches_that_stepped - (0 if position.after_batch else 1)
    line = {"metrics": {"epoch": trainer.current_epoch} | metrics, "step": step}
    return line if metrics else None


def next_log_step(trainer: Trainer) -> int:
    """Return the step number of the next line of the log after resuming from here (``_batches_that_stepped``).

    Lightning's own checkpoints hold the counter from before the step. Without it lines are numbered one too low.
    """
    steps = trainer.fit_loop.epoch_loop._batches_that_stepped
    return steps + (loop_position(trainer).after_batch and not is_accumulating(trainer))


def set_log_step(trainer: Trainer, step: int) -> None:
    """Set the step number of the next line of the log (:func:`next_log_step`)."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def forget_step_values(trainer: Trainer) -> None:
    """Drop the values that ``self.log(on_step=True)`` logged in earlier steps (``_results``, ``_forward_cache``).

    Lightning writes such a value again in later steps. Without it the log of a resumed run has fewer values.
    """
    for metric in trainer.fit_loop.epoch_loop._results.values():
        metric._forward_cache = None


def epoch_sums(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Return the sums from which Lightning computes the epoch means so far (``_results``), by Lightning's key.

    Each has ``name``, ``reduce`` (``mean``, ``sum``, ``max``, ``min``), ``logger``, ``together`` (``sync_dist``) and
    ``parts``: the ``value``, a sum or an extreme ``(processes,)``, and for means the ``size``, the sum of the batch
    sizes ``(processes,)``. Lightning's checkpoints hold none. Without it the epoch means of a resumed run are those of
    the rest of the epoch.
    """

    def gather(tensor: Tensor) -> Tensor:
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
            "parts": {"value": gather(metric.value)},
        }
        if meta.is_mean_reduction:
            sums[key]["parts"]["size"] = gather(metric.cumulated_batch_size)
    return sums


def add_to_epoch_sum(trainer: Trainer, key: str, value: Tensor, size: Tensor | None = None) -> bool:
    """Add this process's parts of :func:`epoch_sums` from before an interruption to what was logged once since.

    Returns ``False`` if nothing has been logged under the key yet. With addition in this order the epoch mean is that
    of the uninterrupted run to the last bit.
    """
    metric = trainer.fit_loop.epoch_loop._results.get(key)
    if metric is None or metric.has_reset:
        return False
    if len(value):
        if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
            metric.value = metric.meta.reduce_fx(torch.cat([metric.value[None], value]))
        else:
            metric.value = metric.value + value.sum()
        if size is not None:
            metric.cumulated_batch_size = metric.cumulated_batch_size + size.sum()
    return True


def set_csv_writer(logger: CSVLogger, make: Callable[[], Any]) -> None:
    """Replace the writer of a CSVLogger by the one that ``make`` returns, before its first line (``_experiment``).

    Its own deletes an earlier file. Without it a resumed run with a fixed ``version`` loses its log so far.
    The logger calls the writer's ``log_metrics``, ``log_hparams`` and ``save``, and reads its ``metrics``.
    """
    if logger._experiment is None:
        logger._experiment = make()


class PublicModelCheckpoint(ModelCheckpoint):
    """``ModelCheckpoint`` with public names for what a subclass needs that saves at moments of its own choice.

    Lightning has no hooks for that, and a callback beside it would write a second ``last.ckpt``. Without them there are
    no checkpoints between two epochs' ends, and without ``_save_checkpoint`` those of models that are not finite.
    """

    def before_write(self, trainer: Trainer) -> None:
        """Called before each checkpoint is written; an error prevents it."""

    def after_write(self, trainer: Trainer, path: str) -> None:
        """Called after each checkpoint is written."""

    @property
    def last_saved_step(self) -> int:
        """The global step that was saved last (``_last_global_step_saved``); may be set."""
        return self._last_global_step_saved

    @last_saved_step.setter
    def last_saved_step(self, step: int) -> None:
        self._last_global_step_saved = step

    def may_save(self, trainer: Trainer) -> bool:
        """Whether this is training, and its step is not saved yet (``_should_skip_saving_checkpoint``)."""
        return not self._should_skip_saving_checkpoint(trainer)

    def write_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt`` (``_save_last_checkpoint``, ``_monitor_candidates``)."""
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.before_write(trainer)
        super()._save_checkpoint(trainer, filepath)
        self.after_write(trainer, filepath)


def averaged_model(callback: WeightAveraging) -> nn.Module:
    """Return the averaged copy of the model (``_average_model``); without it each update waits for the device."""
    return callback._average_model.module  # type: ignore[union-attr]  # None outside of training


def request_termination(trainer: Trainer) -> None:
    """End the run as after SIGTERM when the current step is done (``_signal_connector.received_sigterm``).

    The public ``received_sigterm`` can only be read. Without it the processes of a run cannot end after the same step.
    """
    trainer._signal_connector.received_sigterm = True


def replace_sync_batchnorm(strategy: Strategy, conversion: TorchSyncBatchNorm) -> bool:
    """Convert a model for ``trainer.sync_batchnorm`` in another way than torch's (``_layer_sync``).

    Returns ``False`` if the option is not set. Without it timm's layers of batch norm and activation lose the latter.
    """
    if type(getattr(strategy, "_layer_sync", None)) is not TorchSyncBatchNorm:
        return False
    strategy._layer_sync = conversion  # type: ignore[attr-defined]  # of ParallelStrategy
    return True
