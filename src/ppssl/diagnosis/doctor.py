"""``doctor``: look at machine, installation, data and settings, and try a few steps, before a run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.loader import default_workers
from ppssl.data.survey import Survey, survey
from ppssl.diagnosis.data_set import check_corpora, check_data, check_doubtful
from ppssl.diagnosis.finding import Finding, exit_code, problem, warning
from ppssl.diagnosis.installation import check_installation, this_installation
from ppssl.diagnosis.machine import TENSORS, Demand, Machine, check_machine, this_machine
from ppssl.diagnosis.settings import Plan, check_normalisation, check_settings, plan_of
from ppssl.diagnosis.trial import Trial, check_trial, try_steps
from ppssl.studies.error_messages import describe_error
from ppssl.studies.lightning_cli import PPSSLCLI, build_recipe
from ppssl.utils.checks import check_range
from ppssl.utils.paths import AnyPath
from ppssl.utils.results import provenance

__all__ = ["DEFAULT_RECIPE", "Diagnosis", "doctor"]

DEFAULT_RECIPE = "ppssl:folder/pretrain"
"""Recipe of a run that is named by options alone."""

_TRIAL = (
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
)
"""Trainer settings of the trial: nothing is written, shown or validated."""
_COPIES = 3
"""Checkpoints that a run keeps: the last, the one before, and that of the epoch."""


@dataclass
class Diagnosis:
    """What the doctor finds.

    Attributes:
        findings: Findings by area, in the order in which they were made.
        trial: What the trial measured; ``None`` without one.
    """

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    trial: Trial | None = None

    @property
    def exit_code(self) -> int:
        """0 if all is green, 1 with warnings, 2 with problems."""
        return exit_code([finding for found in self.findings.values() for finding in found])

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain data."""
        listed = [
            {"area": area} | asdict(finding)
            for area, found in self.findings.items()
            for finding in found
        ]
        return {
            "schema_version": 1,
            "exit_code": self.exit_code,
            "findings": listed,
            "trial": None if self.trial is None else asdict(self.trial),
            "provenance": provenance(),
        }


def doctor(
    recipe: AnyPath | None = None,
    overrides: Sequence[str] = (),
    *,
    images: int | None = 1000,
    steps: int = 10,
    embeddings: AnyPath | None = None,
) -> Diagnosis:
    """Look at machine and installation, and at the data, settings and first steps of a run.

    Nothing is written, and no global state is changed but what a training changes.

    Args:
        recipe: A file, or ``ppssl:<folder>/<recipe>``; ``None``: :data:`DEFAULT_RECIPE` with overrides, and without
            overrides no run.
        overrides: Overrides of the recipe, as on the command line, such as ``--data.root=images``.
        images: Images that are decoded, evenly spaced; ``None``: all.
        steps: Steps of the trial that are timed; 0: no trial.
        embeddings: A file of ``ppssl embed`` of the data set, by which labels are checked; ``None``: they are not.

    Raises:
        UserError: ``embeddings`` cannot be read, or are of other images.
    """
    check_range(">= 1", images=images)
    check_range(">= 0", steps=steps)
    diagnosis = Diagnosis()
    areas = diagnosis.findings
    areas["installation"] = check_installation(this_installation())
    if recipe is None and not overrides:
        areas["machine"] = check_machine(this_machine(Path.cwd()))
        return diagnosis
    built = _attempt(
        areas, "settings", lambda: build_recipe(recipe or DEFAULT_RECIPE, [*overrides, *_TRIAL])
    )
    if built is None:
        areas["machine"] = check_machine(this_machine(Path.cwd()))
        return diagnosis
    machine = this_machine(Path(built.trainer.default_root_dir))
    if not isinstance(built.datamodule, FineGrainedDataModule):
        areas["machine"] = check_machine(machine)
        areas["data"] = [_unknown_data(built.datamodule)]
        return diagnosis
    demand = _demand(built)
    areas["machine"] = check_machine(machine, demand)
    seen = _attempt(areas, "data", lambda: survey(built.datamodule, limit=images))
    if seen is None:
        return diagnosis
    areas["data"] = check_data(seen)
    if embeddings is not None:
        areas["data"] += check_doubtful(seen, embeddings)
    plan = plan_of(built.trainer, built.datamodule, built.model)
    areas["settings"] = _check_settings(built, plan, seen)
    if steps and exit_code(areas["settings"]) < 2 and exit_code(areas["data"]) < 2:
        _try(diagnosis, built, plan, machine, demand, steps)
    return diagnosis


def _unknown_data(data: Any) -> Finding:
    """The line on a data module that is not ppssl's, of whose images nothing can be known."""
    advice = "Try the run by `ppssl fit ... --trainer.fast_dev_run=10`, which writes nothing."
    return warning("data", f"not looked at: `{type(data).__name__}` is none of ppssl's", advice)


def _attempt(areas: dict[str, list[Finding]], area: str, work: Callable[[], Any]) -> Any:
    """The result of some work; ``None`` and a red line if it fails as a user's mistake does."""
    try:
        return work()
    except Exception as error:
        _, message = describe_error(error)
        if message is None:
            raise
        areas[area] = [problem(area, message, "")]
        return None


def _demand(built: PPSSLCLI) -> Demand:
    """What a run needs of the machine."""
    data: FineGrainedDataModule = built.datamodule
    trainer: Any = built.trainer
    workers = default_workers(trainer.num_devices) if data.num_workers is None else data.num_workers
    return Demand(
        on_gpu=trainer.strategy.root_device.type == "cuda",
        precision=str(trainer.precision),
        workers=workers,
        prefetch=data.prefetch_factor or 2,
        batch=data.batch_size * 3 * sum(size**2 for size in data.view_sizes),
        tensors=TENSORS + len(data.view_sizes) - 2,
        checkpoints=_COPIES * _checkpoint_size(built.model),
    )


def _checkpoint_size(model: Any) -> int:
    """Bytes of a checkpoint, about: weights, their copy in the key encoder, and two moments of the optimizer."""
    return 4 * sum(p.numel() * p.element_size() for p in model.parameters())


def _check_settings(built: PPSSLCLI, plan: Plan, seen: Survey) -> list[Finding]:
    findings = check_settings(built.model, plan) + check_corpora(built.model, seen.data)
    encoder = getattr(built.model, "encoder", None)
    info = getattr(encoder, "info", None)
    return (
        findings if info is None else [*findings, *check_normalisation(seen, info.mean, info.std)]
    )


def _try(
    diagnosis: Diagnosis,
    built: PPSSLCLI,
    plan: Plan,
    machine: Machine,
    demand: Demand,
    steps: int,
) -> None:
    areas = diagnosis.findings
    trial = _attempt(
        areas, "trial", lambda: try_steps(built.trainer, built.model, built.datamodule, steps=steps)
    )
    if trial is None:
        return
    diagnosis.trial = trial
    areas["trial"] = check_trial(trial, plan, machine, workers=demand.workers, on_gpu=demand.on_gpu)
