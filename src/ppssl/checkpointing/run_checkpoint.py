"""When a run's checkpoints are written: each epoch, in between by time or steps, and when it is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ppssl.utils.finite import check_parameters

__all__ = ["RunCheckpoint"]

FIVE_MINUTES = timedelta(minutes=5)

LOOK = 20
"""Several processes look at the clock at every so manieth step."""


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, and ``last.ckpt`` between the epochs' ends too, always between two steps.

    Checkpoints by step replace ``last.ckpt`` alone. On an epoch's last batch the epoch's own takes their place: resumed
    from one written there, Lightning would leave out the epoch's end. The first Ctrl-C ends the run when the step, or
    the epoch's validation, is done and saved, SIGTERM when the step is; of several processes any may get it, and all
    end after the next step. The second Ctrl-C ends it at once, as SIGTERM does in a validation; what was done since the
    last checkpoint is done again. On any other error nothing is written: the state may be that of half a step.

    Args:
        every_n_train_steps: Write after so many optimizer steps; ``None``: not by steps.
        train_time_interval: Write when so much time has passed since the last one; ``None``: not by time.
        every_n_epochs: Write at every so manieth epoch's end.
        filename: Of the epochs' checkpoints.
        save_last: Whether there is a ``last.ckpt``, without which nothing is written between the epochs' ends.
        save_on_train_epoch_end: After the epoch's validation and last log, or (``None``) as Lightning chooses.
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
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"`every_n_train_steps` must be >= 1, got {every_n_train_steps}.")
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
        self._asked_to_stop = self._terminated = False
        self._handler: Any = None

    # -- when -----------------------------------------------------------------------------------------------------

    def should_save(self, step: int, elapsed: float) -> bool:
        """Whether a checkpoint is due between two epochs' ends.

        Args:
            step: The global step.
            elapsed: Seconds since the last one.
        """
        by_step = self.every_n_train_steps is not None and (
            step - self._last_global_step_saved >= self.every_n_train_steps
        )
        interval = self.train_time_interval
        return by_step or (interval is not None and elapsed >= interval.total_seconds())

    def _is_due(self, trainer: Trainer) -> bool:
        if not self.save_last or self._should_skip_saving_checkpoint(trainer):
            return False
        step, elapsed = trainer.global_step, time.monotonic() - self._saved_at
        if trainer.world_size == 1:
            return (
                self.should_save(step, elapsed) or self._asked_to_stop or trainer.received_sigterm
            )
        if step % LOOK == 0:  # clocks differ: the first process decides, and not at every step
            return bool(trainer.strategy.broadcast(self.should_save(step, elapsed)))
        return self.should_save(step, elapsed=0)

    # -- hooks ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; from now on the first Ctrl-C waits for the step's end."""
        self._saved_at = time.monotonic()
        self._last_global_step_saved = trainer.global_step
        self._asked_to_stop = self._terminated = False
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self._note_termination)
        elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = signal.signal(signal.SIGINT, self._ask_to_stop)

    def _ask_to_stop(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self._handler)
        self._asked_to_stop = True
        os.write(
            2, b"\nStopping after this step. Ctrl-C again stops at once.\n"
        )  # safe in a handler

    def _note_termination(self, *_: Any) -> None:
        """SIGTERM to one of several processes.

        Lightning's own handler takes part in a collective at once, which the others may take for another one.
        """
        self._terminated = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop, if asked to, where everything is saved and logged; several processes agree on it one step before."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            self._terminated, all=False
        ):
            trainer._signal_connector.received_sigterm = True
        saved = self._last_global_step_saved == trainer.global_step or not self.save_last
        if self._asked_to_stop and saved:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time, but not on half-accumulated gradients and not on an epoch's last batch."""
        loop = trainer.fit_loop
        if loop._should_accumulate() or loop.epoch_loop._is_training_done:
            return
        if self._is_due(trainer):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's, or where that has nothing to save, what the last batch had left."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._is_due(trainer):
            self._save_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save after SIGTERM, which Lightning raises between two steps, if that is not done yet."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        between = batches.ready == batches.completed and not trainer.validating
        self._release()
        if not isinstance(exception, SIGTERMException) or not between or not self.save_last:
            return
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        self._release()

    def _release(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        self._handler = None

    # -- what -----------------------------------------------------------------------------------------------------

    def _save_last(self, trainer: Trainer) -> None:
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        check_parameters(trainer.lightning_module, trainer.global_step)
        super()._save_checkpoint(trainer, filepath)
        self._saved_at = time.monotonic()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best of before stay the best, although a resumed run writes to a folder of its own."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath, "last_model_path": ""})
