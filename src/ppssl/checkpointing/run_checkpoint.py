"""The checkpoints of a training run: at each epoch's end, in between by time or steps, and when it is stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ppssl.utils.checks import check_range
from ppssl.utils.finite import check_parameters
from ppssl.utils.lightning_internals import (
    PublicModelCheckpoint,
    is_accumulating,
    is_last_batch,
    loop_position,
    request_termination,
)

__all__ = ["RunCheckpoint"]

FIVE_MINUTES = timedelta(minutes=5)

CLOCK_EVERY_N_STEPS = 20
"""How often a run of several processes compares the time with ``train_time_interval``."""

ASK_EVERY_N_STEPS = 8
"""How often the processes of a run ask each other whether one of them has been told to stop."""


class RunCheckpoint(PublicModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that also writes ``last.ckpt`` between two steps, and when the run is stopped.

    Checkpoints by steps or time replace ``last.ckpt`` only. After an epoch's last batch none is written: resumed from
    it, Lightning would leave out the epoch's end, whose own checkpoint follows at once. The first Ctrl-C ends the run
    when the current step or validation is done and saved, SIGTERM when the current step is; of several processes any
    may get the signal, and all end after the next step. The second Ctrl-C ends the run at once, as does SIGTERM during
    validation; the steps since the last checkpoint are then repeated. After any other error nothing is written, since
    the state may be that of half a step. A run that ends by itself leaves its final weights in ``last.ckpt``, also with
    ``monitor``, ``every_n_epochs`` or early stopping.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints; ``None``: not by steps.
        train_time_interval: Time between two checkpoints; ``None``: not by time.
        every_n_epochs: Epochs between two checkpoints at epochs' ends.
        filename: File name of the epochs' checkpoints.
        save_last: Whether to write ``last.ckpt``; without it nothing is written between two epochs' ends.
        save_on_train_epoch_end: Save after the epoch's validation and last log; ``None``: as Lightning chooses.
        kwargs: Lightning's other arguments, such as ``monitor`` and ``save_top_k``.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = FIVE_MINUTES,
        every_n_epochs: int = 1,
        filename: str | None = "{epoch}-{step}",
        save_last: bool = True,
        save_on_train_epoch_end: bool | None = True,
        **kwargs: Any,
    ) -> None:
        check_range(">= 1", every_n_train_steps=every_n_train_steps)
        super().__init__(
            every_n_epochs=every_n_epochs,
            filename=filename,
            save_last=save_last,
            save_on_train_epoch_end=save_on_train_epoch_end,
            save_on_exception=False,
            enable_version_counter=False,
            **kwargs,
        )
        self.every_n_train_steps = every_n_train_steps
        self.train_time_interval = train_time_interval
        self._saved_at = 0.0
        self._last_step = -1  # of which `last.ckpt` is
        self._interrupted = self._terminated = False
        self._interrupt_handler: Any = None

    # -- when -----------------------------------------------------------------------------------------------------

    def should_save(self, step: int, elapsed: float) -> bool:
        """Whether a checkpoint by steps or time is due.

        Args:
            step: The global step.
            elapsed: Seconds since the last checkpoint.
        """
        by_step = self.every_n_train_steps is not None and (
            step - self.last_saved_step >= self.every_n_train_steps
        )
        interval = self.train_time_interval
        return by_step or (interval is not None and elapsed >= interval.total_seconds())

    def _is_due(self, trainer: Trainer) -> bool:
        if not self.save_last or not self.may_save(trainer):
            return False
        step, elapsed = trainer.global_step, time.monotonic() - self._saved_at
        if trainer.world_size == 1:
            return self.should_save(step, elapsed) or self._interrupted or trainer.received_sigterm
        if step % CLOCK_EVERY_N_STEPS == 0:  # clocks differ, so the first process decides
            return bool(trainer.strategy.broadcast(self.should_save(step, elapsed)))
        return self.should_save(step, elapsed=0)

    # -- hooks ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and let the first Ctrl-C wait for the end of the step."""
        self._saved_at = time.monotonic()
        self.last_saved_step = trainer.global_step
        self._interrupted = self._terminated = False
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self._note_termination)
        elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._interrupt_handler = signal.signal(signal.SIGINT, self._note_interrupt)

    def _note_interrupt(self, *_: Any) -> None:
        """Note the first Ctrl-C; the second one acts as usual."""
        signal.signal(signal.SIGINT, self._interrupt_handler)
        self._interrupted = True
        os.write(
            2, b"\nStopping after this step. Ctrl-C again stops at once.\n"
        )  # safe in a handler

    def _note_termination(self, *_: Any) -> None:
        """Note SIGTERM to one of several processes.

        Lightning's own handler begins a collective operation at once; the other processes may be in another one.
        """
        self._terminated = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop after Ctrl-C if all is saved and logged; several processes agree to stop after this step.

        They ask each other in every few steps only: it takes a collective operation, which the host waits for.
        """
        asks = trainer.world_size > 1 and batch_idx % ASK_EVERY_N_STEPS == 0
        if asks and trainer.strategy.reduce_boolean_decision(self._terminated, all=False):
            request_termination(trainer)
        saved = self.last_saved_step == trainer.global_step or not self.save_last
        if self._interrupted and saved:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due, but neither between accumulated batches nor after an epoch's last batch."""
        if is_accumulating(trainer) or is_last_batch(trainer):
            return
        if self._is_due(trainer):
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch's checkpoint, or if there is none, one that became due at the last batch."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._is_due(trainer):
            self.write_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the final weights in ``last.ckpt``, whichever epochs are saved.

        Lightning's own would write one after a trial (``fast_dev_run``), and none where any other was written.
        """
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # its constructor sets it
        trained = trainer.global_step > 0 and not trial
        if self.save_last and trained and self._last_step != trainer.global_step:
            self.write_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save after SIGTERM if the step is not saved yet; Lightning raises it between two steps or in a validation."""
        between_steps = loop_position(trainer).between_batches and not trainer.validating
        self._restore_interrupt_handler()
        if not isinstance(exception, SIGTERMException) or not between_steps or not self.save_last:
            return
        if self.may_save(trainer):
            self.write_last(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Ctrl-C act as before training."""
        self._restore_interrupt_handler()

    def _restore_interrupt_handler(self) -> None:
        if self._interrupt_handler is not None:
            signal.signal(signal.SIGINT, self._interrupt_handler)
        self._interrupt_handler = None

    # -- what -----------------------------------------------------------------------------------------------------

    def before_write(self, trainer: Trainer) -> None:
        """Refuse to save a model that is not finite."""
        check_parameters(trainer.lightning_module, trainer.global_step)

    def after_write(self, trainer: Trainer, path: str) -> None:
        """Restart the clock."""
        self._saved_at = time.monotonic()
        if path == self.last_model_path:
            self._last_step = trainer.global_step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoints so far, although a resumed run writes to another folder."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath, "last_model_path": ""})
