"""The record of a step whose loss was not finite: what it takes to repeat it, in a JSON file beside the log.

The weights before the step follow from the last checkpoint, which is kept under another name beside the file, or from
the seed: a resumed run is bitwise the same. ``ppssl doctor --replay FILE`` repeats the step.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.finite import LossOfStep
from ppssl.utils.paths import expand, write_whole
from ppssl.utils.results import provenance

__all__ = ["exact", "record_step"]

_TRAINER = (
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "log_every_n_steps",
    "precision",
)
"""Arguments of the Trainer that a step depends on."""


def record_step(module: Any, step: LossOfStep) -> Path | None:
    """Write the record of a step beside the log of its run.

    Args:
        module: The LightningModule, with its Trainer.
        step: The loss of the step.

    Returns:
        The file ``not_finite-step=<step>.json``; ``None`` if the run writes neither logs nor checkpoints, or the file
        cannot be written: the error of the run is what counts.
    """
    trainer: Trainer = module.trainer
    folder = _folder(trainer)
    if folder is None:
        return None
    path = folder / f"not_finite-step={step.step}.json"
    with suppress(UserError, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        content = _content(module, step) | {"checkpoint": _keep_checkpoint(trainer, path)}
        write_whole(
            path, json.dumps(content, indent=1)
        )  # in this order: that of the plugins matters
        return path
    return None


def exact(values: torch.Tensor) -> list[str]:
    """Numbers as text that gives them back exactly, NaN and infinities too."""
    return [repr(value) for value in values.detach().double().flatten().tolist()]


def _folder(trainer: Any) -> Path | None:
    """Where a run writes: the folder of its log, else of its checkpoints; ``None`` if it writes nothing."""
    if trainer.fast_dev_run:
        return None
    log = getattr(trainer.logger, "log_dir", None)
    if isinstance(log, str):
        return expand(log)
    if trainer.checkpoint_callback is None:
        return None
    return expand(getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir)


def _content(module: Any, step: LossOfStep) -> dict[str, Any]:
    trainer, data = module.trainer, getattr(module.trainer, "datamodule", None)
    return {
        "schema_version": 1,
        "step": step.step,
        "epoch": step.epoch,
        "images": step.images.tolist(),
        "loss": exact(step.loss)[0],
        "terms": {name: exact(term) for name, term in step.terms.items()},
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "device": module.device.type,
        "trainer": {name: getattr(trainer, name) for name in _TRAINER},
        "model": module.config(),
        "data": data.config() if isinstance(data, Configurable) else None,
        "provenance": provenance(),
    }


def _keep_checkpoint(trainer: Any, record: Path) -> str | None:
    """Keep the last checkpoint beside the record, where no later run replaces it; returns its name or path."""
    paths = [
        getattr(callback, name, "")
        for callback in trainer.checkpoint_callbacks
        for name in ("last_model_path", "best_model_path")
    ]
    written = [Path(path) for path in paths if path and Path(path).is_file()]
    resumed = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    if not written and (resumed is None or not resumed.is_file()):
        return None
    newest = max(written, key=lambda path: path.stat().st_mtime_ns) if written else resumed
    if newest is None:
        return None
    kept = record.with_suffix(".state")
    try:
        kept.unlink(missing_ok=True)
        os.link(newest, kept)
    except OSError:  # another disk, or one without hard links
        return str(newest.resolve())
    return kept.name
