"""The settings against the data: batch, queue, steps, momentum, temperature, rates, schedules, normalisation."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from ppssl.classify.base import Classifier
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.survey import Survey
from ppssl.diagnosis.finding import Finding, ok, problem, warning
from ppssl.losses.ais.plugin import AIS
from ppssl.losses.anchor import Anchor
from ppssl.losses.contrastive.momentum import automatic_momentum
from ppssl.losses.contrastive.simclr import SimCLR
from ppssl.losses.distillation import Distillation
from ppssl.module import PPSSL
from ppssl.utils.optim import default_base_lr, scale_learning_rate

__all__ = [
    "Plan",
    "check_batch",
    "check_learning_rate",
    "check_momentum",
    "check_normalisation",
    "check_plugins",
    "check_queue",
    "check_schedule",
    "check_settings",
    "check_steps",
    "check_temperature",
    "plan_of",
]

_FEW_STEPS = 200
"""Optimizer steps below which a contrastive loss learns next to nothing."""
_SHORT_PHASE = 20
"""Optimizer steps that heads need at least before the encoder follows."""
_FEW_NEGATIVES = 32
"""Batch below which a loss against the images of the batch is too easy."""
_TEMPERATURES = (0.03, 0.6)
"""Usual temperatures of InfoNCE lie in between."""
_RATES = (1 / 50, 10, 100)
"""Ratio to the usual learning rate: below the first too low, above the second high, above the third it diverges."""


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    Attributes:
        images: Training images N.
        batch: Images of all processes in a batch.
        steps: Optimizer steps of the run; ``None``: it has no end.
        batches: Batches that an optimizer step accumulates.
    """

    images: int
    batch: int
    steps: int | None
    batches: int = 1


def plan_of(trainer: Trainer, data: FineGrainedDataModule, model: Any = None) -> Plan:
    """The sizes of the run that a Trainer would make of a data module, after its ``setup``, and a model.

    A classifier trains on the labelled images that are not held out, any other model on all.
    """
    images = len(data.train_fit) if isinstance(model, Classifier) else data.num_train
    options: Any = trainer
    batch = data.batch_size * options.world_size
    per_epoch: float = images // batch
    limit = options.limit_train_batches
    per_epoch = min(per_epoch, limit) if isinstance(limit, int) else int(per_epoch * limit)
    accumulated = options.accumulate_grad_batches
    epochs = math.inf if options.max_epochs in (None, -1) else options.max_epochs
    most = math.inf if options.max_steps == -1 else options.max_steps
    steps = min(epochs * math.ceil(per_epoch / accumulated), most)
    return Plan(images, batch, None if steps == math.inf else int(steps), accumulated)


def check_settings(model: Any, plan: Plan) -> list[Finding]:
    """All checks of settings against the number of images; of models other than PPSSL those of batch and steps."""
    findings = [*check_batch(model, plan), *check_steps(plan)]
    if not isinstance(model, PPSSL) or not plan.steps or plan.images < plan.batch:
        return findings
    return [
        *findings,
        *check_learning_rate(model, plan),
        *check_schedule(model, plan.steps),
        *check_queue(model.contrastive, plan),
        *check_momentum(model.contrastive, plan.steps),
        *check_temperature(model.contrastive),
        *check_plugins(model, plan.steps),
    ]


def check_batch(model: Any, plan: Plan) -> list[Finding]:
    """Whether the images fill a batch, and the batch has enough negatives."""
    what, value = "batch", f"{plan.batch:,} of {plan.images:,} training images"
    if plan.images < plan.batch:
        return [
            problem(
                what,
                f"{value}: not one",
                f"Lower `data.batch_size` to {_half(plan.images)} or less.",
            )
        ]
    objective = getattr(model, "contrastive", None)
    name = type(objective).__name__
    if isinstance(objective, SimCLR) and plan.batch < _FEW_NEGATIVES:
        advice = "Raise `data.batch_size`, or choose MoCo, whose negatives are in a queue."
        return [warning(what, f"{value}: {name} has few negatives", advice)]
    uses_batch = getattr(getattr(model, "encoder", None), "uses_batch_statistics", False)
    if uses_batch and plan.batch < 8:
        advice = "Raise `data.batch_size`, or set `model.batch_norm` to `frozen` with pretrained weights."
        return [warning(what, f"{value}: batch norm estimates from few images", advice)]
    return [ok(what, value)]


def _half(images: int) -> int:
    """The largest power of two that is at most half of the images, at least 2."""
    return max(2, 2 ** int(math.log2(max(2, images / 2))))


def check_steps(plan: Plan) -> list[Finding]:
    """Whether the run takes steps, enough of them, and ends."""
    if plan.steps is None:
        return [
            problem(
                "steps", "the run has no end", "Set `trainer.max_epochs` or `trainer.max_steps`."
            )
        ]
    if plan.steps == 0 and plan.images >= plan.batch:
        advice = "Raise `trainer.max_epochs`, `trainer.max_steps` or `trainer.limit_train_batches`."
        return [problem("steps", "the run takes no step", advice)]
    epochs = plan.steps * plan.batch * plan.batches / max(1, plan.images)
    value = f"{plan.steps:,} optimizer steps, {epochs:,.1f} passes over the images"
    if plan.steps < _FEW_STEPS:
        advice = f"Raise `trainer.max_epochs`: below {_FEW_STEPS} steps hardly anything is learned."
        return [warning("steps", value, advice)]
    return [ok("steps", value)]


def check_learning_rate(model: PPSSL, plan: Plan) -> list[Finding]:
    """Whether the learning rate is near the usual one of the optimizer, weights and batch size."""
    batch = plan.batch * plan.batches
    source = type("Batch", (), {"batch_size": batch})
    rate = scale_learning_rate(model.lr, model.base_lr, source, 1)
    held = any(isinstance(plugin, (AIS, Anchor, Distillation)) for plugin in model.plugins.values())
    gentle = (
        bool(model.pretrained) and not held
    )  # what a teacher holds bears the rate of random weights
    usual = default_base_lr(model.optimizer, pretrained=gentle) * batch / 128
    low, high, far = _RATES
    value = f"{rate:.2g} for {model.optimizer} and a batch of {batch}, usual is {usual:.2g}"
    if rate > far * usual:
        return [
            problem("learning rate", value, "Lower `model.lr`, or leave it out: the loss diverges.")
        ]
    if rate > high * usual:
        return [warning("learning rate", value, "Lower `model.lr`, or leave it out.")]
    if rate < low * usual:
        return [
            warning("learning rate", value, "Raise `model.lr`, or leave it out: little is learned.")
        ]
    return [ok("learning rate", value)]


def check_schedule(model: PPSSL, steps: int) -> list[Finding]:
    """Whether the heads have steps of their own before the encoder follows, and the rate a time at its height."""
    start, warm_up = model.encoder_start, model.warmup_fraction
    value = f"encoder from step {round(start * steps):,} on, warm-up of {round(warm_up * steps):,} steps"
    if start + warm_up > 0.8:
        advice = (
            "Lower `model.encoder_start` or `model.warmup_fraction`: the encoder is hardly trained."
        )
        return [problem("schedule", value, advice)]
    if 0 < start * steps < _SHORT_PHASE:
        advice = (
            f"Raise `trainer.max_epochs` or `model.encoder_start`: the heads are random, and need about {_SHORT_PHASE} "
            "steps before the encoder follows them."
        )
        return [warning("schedule", value, advice)]
    return [ok("schedule", value)]


def check_queue(objective: Any, plan: Plan) -> list[Finding]:
    """Whether the key queue is smaller than the data set: a larger one holds each image several times."""
    size = getattr(objective, "queue_size", None)
    if size is None:
        return []
    resolved = max(1, min(65_536, plan.images // 2)) if size == "auto" else size
    value = f"{resolved:,} keys, {plan.images:,} images"
    if resolved > plan.images:
        advice = "Set `queue_size` of MoCo to `auto`, half of the images: it holds old keys of the query's own image."
        return [warning("queue", value, advice)]
    if resolved < plan.batch:
        advice = "Raise `queue_size` of MoCo, or set it to `auto`: it holds less than one batch."
        return [warning("queue", value, advice)]
    return [ok("queue", value)]


def check_momentum(objective: Any, steps: int) -> list[Finding]:
    """Whether the key encoder follows within the run, and not at once."""
    momentum = getattr(objective, "momentum", None)
    if momentum is None:
        return []
    resolved = automatic_momentum(steps) if momentum == "auto" else momentum
    time = 1 / max(1 - resolved, 1e-12)
    value = f"{resolved:.5g}, a time of {time:,.0f} of {steps:,} steps"
    if time > steps / 2:
        advice = f"Set `momentum` to `auto` ({automatic_momentum(steps):.4g}): the keys stay near the initial encoder."
        return [warning("momentum", value, advice)]
    if momentum != "auto" and momentum < 0.9 and hasattr(objective, "queue_size"):
        return [
            warning("momentum", value, "Set `momentum` to `auto`: keys in the queue age too fast.")
        ]
    return [ok("momentum", value)]


def check_temperature(objective: Any) -> list[Finding]:
    """Whether the temperature is in the usual range."""
    temperature = getattr(objective, "temperature", None)
    if temperature is None:
        return []
    low, high = _TEMPERATURES
    if low <= temperature <= high:
        return [ok("temperature", f"{temperature}")]
    effect = (
        "only the nearest negative counts" if temperature < low else "all negatives count alike"
    )
    advice = f"Choose one of 0.05 to 0.5 (MoCo v2 has 0.2): {effect}."
    return [warning("temperature", f"{temperature}", advice)]


def check_plugins(model: PPSSL, steps: int) -> list[Finding]:
    """Whether each plugin has enough steps at its full weight."""
    findings = []
    progress = np.linspace(0, 1, 201)
    plugins: dict[str, Any] = dict(model.plugins.items())
    for name, plugin in plugins.items():
        weights = np.array([plugin.weight(p) for p in progress])
        what, top = f"plugin {name}", weights.max()
        every = getattr(plugin, "every", 1)
        full = int((weights >= 0.9 * top).mean() * steps / every)
        if top == 0:
            findings.append(warning(what, "its weight is 0", "Raise its weight, or leave it out."))
        elif full < 50:
            value = f"{full} steps at its full weight"
            advice = "Raise `trainer.max_epochs`: its head has too few steps to learn its part."
            findings.append(warning(what, value, advice))
        else:
            findings.append(ok(what, f"{full:,} steps at its full weight"))
    return findings


def check_normalisation(
    survey: Survey, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[Finding]:
    """Whether the images, normalised for the encoder, have about mean 0 and standard deviation 1.

    Args:
        survey: The data set.
        mean: Mean of each channel that the encoder expects, in units of [0, 1].
        std: Standard deviation of each channel, likewise.
    """
    what, advice = (
        "normalisation",
        "Give the encoder's mean and standard deviation in units of [0, 1]",
    )
    if not len(survey.mean):
        return []
    if max(mean) > 1 or max(std) > 1 or min(std) <= 0:
        value = f"mean {mean}, standard deviation {std} of the encoder"
        return [problem(what, value, f"{advice}, not of [0, 255].")]
    centre = (survey.mean.mean(axis=0) - mean) / np.array(std)
    spread = np.sqrt((survey.std**2 + survey.mean.var(axis=0)).mean(axis=0)) / np.array(std)
    value = f"images have mean {_listed(centre)} and standard deviation {_listed(spread)}"
    if np.abs(centre).max() > 3 or spread.max() > 5 or spread.min() < 0.1:
        advice += ", or look at the images: they are not such as the encoder knows."
        return [warning(what, value, advice)]
    return [ok(what, value)]


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
