"""A trial: a few steps of the run itself, with their time, the share of waiting for data, and memory."""

import resource
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.diagnosis.finding import Finding, gigabytes, ok, problem, warning
from ppssl.diagnosis.machine import Machine
from ppssl.diagnosis.settings import Plan
from ppssl.losses.contrastive.moco import MoCo
from ppssl.studies.timing import synchronize
from ppssl.utils.errors import UserError

__all__ = ["Trial", "check_trial", "try_steps"]

WARM_UP = 2
"""Steps before those that are timed: they start workers and choose kernels."""
_WAITING = 0.2
"""Share of waiting for data from which more workers pay."""
_LONG_RUN = 7 * 86400


@dataclass
class Trial:
    """What a few steps took.

    Attributes:
        seconds: Seconds of each step, with waiting.
        waiting: Seconds of each step spent waiting for its batch.
        losses: Loss of each step.
        memory: Most main memory that the process and its workers had, in bytes.
        device_memory: Most memory of the GPU, in bytes; 0 without one.
        left_out: Names of plugins whose bank would have to be made first.
    """

    seconds: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: int = 0
    device_memory: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Median of the seconds of a step; there must be one."""
        return statistics.median(self.seconds)

    @property
    def share_of_waiting(self) -> float:
        """Share of the time spent waiting for data, in [0, 1]."""
        return sum(self.waiting) / sum(self.seconds)


class _Enough(Exception):
    """Ends the trial."""


class _Watch(Callback):
    """Times steps, and ends the run after enough of them.

    Args:
        steps: Steps to time, after those of the warm-up.
    """

    def __init__(self, steps: int) -> None:
        self.trial, self.wanted = Trial(), steps
        self._left = WARM_UP
        self._ended = self._begun = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; in the middle of the run, in which all losses are at work."""
        model: Any = pl_module
        if trainer.global_step == 0 and hasattr(model, "step_offset"):
            model.step_offset = int(trainer.estimated_stepping_batches) // 2
        self._ended = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """Count the time since the end of the last step as waiting."""
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Note the step."""
        synchronize(pl_module.device)
        now = time.perf_counter()
        trial = self.trial
        trial.losses.append(float(outputs["loss"]))
        if self._left:
            self._left -= 1
        else:
            trial.seconds.append(now - self._ended)
            trial.waiting.append(self._begun - self._ended)
        self._ended = time.perf_counter()
        if len(trial.seconds) >= self.wanted:
            raise _Enough


def try_steps(
    trainer: Trainer, model: LightningModule, data: FineGrainedDataModule, *, steps: int = 10
) -> Trial:
    """Train for a few steps, in the middle of the run's schedule, and measure them.

    Args:
        trainer: A Trainer that logs and saves nothing; not used afterwards.
        model: The model; it is changed.
        data: The data module.
        steps: Steps to time; fewer if the run is shorter, and none if it is no longer than the warm-up.

    Raises:
        UserError: The run fails, or takes no step.
    """
    watch = _Watch(steps)
    options: Any = trainer
    others = [c for c in options.callbacks if not isinstance(c, SaveConfigCallback)]
    options.callbacks = [*others, watch]
    left_out = _leave_out_the_rest(model)
    with suppress(_Enough):
        trainer.fit(model, data)
    trial = watch.trial
    if not trial.losses:
        raise UserError("The run is over before its first step.")
    trial.memory, trial.left_out = _peak_memory(), left_out
    if model.device.type == "cuda":
        trial.device_memory = torch.cuda.max_memory_allocated(model.device)
    return trial


def _leave_out_the_rest(model: Any) -> list[str]:
    """Let a model train only: nothing is monitored or drawn, and no image is looked at before the first step.

    Returns:
        Names of the plugins that need each image before, and are left out.
    """
    if hasattr(model, "monitors"):
        model.monitors = False
    objective = getattr(model, "contrastive", None)
    if isinstance(objective, MoCo):
        objective.prefill = "random"
    plugins = getattr(model, "plugins", {})
    left_out = [name for name, plugin in plugins.items() if plugin.uses_bank]
    for name in left_out:
        del plugins[name]
    return left_out


def _peak_memory() -> int:
    """Most main memory in bytes of this process and of its largest worker."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(1024 * resource.getrusage(kind).ru_maxrss for kind in kinds)


def check_trial(
    trial: Trial, plan: Plan, machine: Machine, *, workers: int, on_gpu: bool
) -> list[Finding]:
    """What a trial says of the whole run."""
    finite = all(torch.tensor(trial.losses).isfinite())
    if not finite:
        value = f"the loss is {trial.losses[-1]} after {len(trial.losses)} steps"
        advice = "Lower `model.lr`; `trainer.gradient_clip_val` and a warm-up help too."
        return [problem("loss", value, advice)]
    return [
        ok("loss", f"finite in all of {len(trial.losses)} steps"),
        *_check_waiting(trial, plan, machine, workers=workers, on_gpu=on_gpu),
        *_check_peak(trial, machine),
        *_check_duration(trial, plan),
        *_check_banks(trial),
    ]


def _check_banks(trial: Trial) -> list[Finding]:
    if not trial.left_out:
        return []
    names = ", ".join(trial.left_out)
    text = f"{names}: not tried; each image is embedded once before the first step, and a step costs little more"
    return [ok("plugins", text)]


def _check_waiting(
    trial: Trial, plan: Plan, machine: Machine, *, workers: int, on_gpu: bool
) -> list[Finding]:
    if not trial.seconds:
        value = f"the run is over after {len(trial.losses)} steps, before one could be timed"
        advice = f"Raise `trainer.max_epochs` or `trainer.max_steps`: the first {WARM_UP} steps are not timed."
        return [warning("step", value, advice)]
    share, speed = trial.share_of_waiting, plan.batch / trial.step
    value = f"{trial.step:.3g} s ({speed:,.0f} images per second), {100 * share:.0f} % of it waiting for data"
    more = workers < min(16, machine.cores - 1)
    if share < _WAITING or not (more or on_gpu):
        return [ok("step", value)]
    advice = (
        "Raise `data.num_workers`."
        if more
        else "Set `data.augment_on` to `device`, or store smaller images."
    )
    return [warning("step", value, advice)]


def _check_peak(trial: Trial, machine: Machine) -> list[Finding]:
    value = gigabytes(trial.memory)
    findings = []
    if trial.device_memory and machine.gpus:
        total = machine.gpus[0].memory
        used = f"{gigabytes(trial.device_memory)} of {gigabytes(total)}"
        if trial.device_memory > 0.9 * total:
            advice = "Lower `data.batch_size`, or set `trainer.precision` to `bf16-mixed`."
            findings.append(warning("GPU memory", used, advice))
        else:
            findings.append(ok("GPU memory", used))
    if machine.memory is not None and trial.memory > 0.9 * (machine.memory + trial.memory):
        advice = "Lower `data.batch_size` or `data.num_workers`."
        return [*findings, warning("memory of the run", value, advice)]
    return [*findings, ok("memory of the run", value)]


def _check_duration(trial: Trial, plan: Plan) -> list[Finding]:
    if plan.steps is None or not trial.seconds:
        return []
    seconds = trial.step * plan.steps * plan.batches
    value = f"{_duration(seconds)} for {plan.steps:,} steps, without validation"
    if seconds > _LONG_RUN:
        advice = "Use a GPU, a smaller encoder or smaller views (docs/how-to/faster-training.md)."
        return [warning("whole run", value, advice)]
    return [ok("whole run", value)]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"
