"""What may befall a run: callbacks and a logger that interrupt it at a chosen place, for child processes too."""

import contextlib
import os
import resource
import signal
import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

PLACES = ("batch_start", "before_save", "epoch_start", "validation", "epoch_end")


class Crash(BaseException):
    """Ends a run in its own process as abruptly as an exception can."""


class Fault(Callback):
    """Something happens at a place of a global step, from 1.

    Args:
        kind: A signal's name (``"SIGKILL"``), sent to the own process, or ``"group SIGINT"``, to its workers too;
            ``"crash"``; ``"disk full"`` from now on, or ``"kill in writing"`` a large file; ``"fill FOLDER"``'s disk
            with a file ``ballast``.
        step: How many optimizer steps are done by then.
        place: ``"batch_start"`` of the step after it, ``"before_save"`` of its own checkpoint, ``"epoch_start"`` of the
            epoch after it, in the ``"validation"`` after it, at the ``"epoch_end"`` before the epoch is saved.
        repeat: How often it happens.
        rank: To this process only; ``None``: to every one.
    """

    def __init__(
        self,
        kind: str,
        step: int,
        place: str = "batch_start",
        repeat: int = 1,
        rank: int | None = None,
    ) -> None:
        assert place in PLACES
        self.kind, self.step, self.place, self.repeat = kind, step, place, repeat
        self.rank = rank
        self.happened = False

    def _at(self, trainer: Trainer, place: str) -> None:
        if trainer.global_step != self.step or place != self.place or self.happened:
            return
        if self.rank not in (None, trainer.global_rank):
            return
        self.happened = True
        for _ in range(self.repeat):
            happen(self.kind)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._at(trainer, "batch_start")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._at(trainer, "before_save")

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        self._at(trainer, "epoch_start")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._at(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._at(trainer, "epoch_end")


class EpochMeans(Callback):
    """A user's own epoch statistics, of every reduction; some are logged at some steps of an epoch only."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for reduce in ("mean", "sum", "max", "min"):
            pl_module.log(
                f"mine/{reduce}",
                outputs["loss"],
                on_step=False,
                on_epoch=True,
                reduce_fx=reduce,
                batch_size=len(batch["index"]) + batch_idx,
            )
        if batch_idx == 0:
            for reduce in ("mean", "max"):
                pl_module.log(
                    f"mine/first_{reduce}",
                    outputs["loss"],
                    on_step=reduce == "max",
                    on_epoch=True,
                    reduce_fx=reduce,
                    batch_size=3,
                )
        if batch_idx % 2 == 0:
            pl_module.log(
                "mine/sparse", outputs["loss"], on_step=False, on_epoch=True, batch_size=1
            )


class Wide(Callback):
    """Logs so much at each step that a few lines fill a block of the disk."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any
    ) -> None:
        for i in range(100):
            pl_module.log(f"wide/{i}", outputs["loss"] * i)


class FaultyLogger(CSVLogger):
    """A crash after the checkpoint of a step and before its line in the log.

    Args:
        save_dir: As of CSVLogger.
        version: As of CSVLogger.
        kind: See :class:`Fault`; empty: nothing happens.
        step: The global step.
        key: Only where this is logged.
    """

    def __init__(
        self,
        save_dir: str,
        version: int | None = None,
        kind: str = "",
        step: int = 0,
        key: str = "train/loss",
    ) -> None:
        super().__init__(save_dir, version=version)
        self.kind, self.step, self.key = kind, step, key

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.kind and step == self.step - 1 and self.key in metrics:
            happen(self.kind)
        super().log_metrics(metrics, step)


def happen(kind: str) -> None:
    """See :class:`Fault`."""
    if kind == "crash":
        raise Crash
    if kind in ("disk full", "kill in writing"):
        action = signal.SIG_IGN if kind == "disk full" else signal.SIG_DFL
        signal.signal(signal.SIGXFSZ, action)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    elif kind.startswith("fill "):
        with (
            contextlib.suppress(OSError),
            open(f"{kind.removeprefix('fill ')}/ballast", "wb", buffering=0) as file,
        ):
            while True:
                file.write(bytes(4096))
    elif kind.startswith("group "):
        os.killpg(0, getattr(signal, kind.removeprefix("group ")))
    else:
        os.kill(os.getpid(), getattr(signal, kind))


class Pace(Callback):
    """Steps that take time, so that something can be done to a run while it is under way."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(self.seconds)
