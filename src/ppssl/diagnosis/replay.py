"""``doctor --replay``: repeat the step of a run whose loss was not finite, and find term, layer and image."""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)

from ppssl.diagnosis.step import Replay, examine
from ppssl.utils.config import not_saved
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.instantiate import instantiate
from ppssl.utils.paths import AnyPath, expand

__all__ = ["replay"]

_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "devices": 1,
}


_EXPECTED = (
    r"Be aware that when using `ckpt_path`|The resumed run is set otherwise|Anomaly Detection"
)
"""Warnings that say what is meant: a replay has no monitors, and looks for anomalies."""


_ENTRIES: dict[str, Any] = {
    **dict.fromkeys(("step", "epoch", "processes", "threads"), int),
    **dict.fromkeys(("terms", "trainer"), dict),
    **dict.fromkeys(("model", "data"), dict | None),
    **dict.fromkeys(("seed_everything", "checkpoint"), str | None),
    "images": list,
    "loss": str,
    "device": str,
}
"""What a record holds."""


def replay(
    record: AnyPath, model: LightningModule | None = None, data: LightningDataModule | None = None
) -> Replay:
    """Repeat the step of a run whose loss was not finite.

    The run is resumed from its last checkpoint before the step, or begun anew with its seed; the step itself is
    computed as it was, and again in float64 with anomaly detection.

    Args:
        record: The file ``not_finite-step=<step>.json``.
        model: A model as that of the run was before training, where the record does not hold all of its arguments.
        data: The data module, likewise.

    Raises:
        UserError: The record cannot be read, is of several processes or lacks arguments, or the run does not come to
            the step.
    """
    content = _read(record)
    if content["seed_everything"] is not None:
        seed_everything(int(content["seed_everything"]), verbose=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(content["threads"])
    checkpoint = _checkpoint(expand(record), content)
    try:
        stop = _Stop(content)
        built: Any = _build(content, "model", checkpoint) if model is None else model
        source: Any = _build(content, "data", checkpoint) if data is None else data
        if hasattr(built, "monitors"):
            built.monitors = False
        built.loss_history.check = lambda: None  # the step itself is examined
        options = content["trainer"] | _QUIET | {"accelerator": content["device"]}
        trainer = Trainer(**options, callbacks=[stop])
        with suppress(_Done), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_EXPECTED)
            trainer.fit(built, source, ckpt_path=checkpoint)
    finally:
        torch.set_num_threads(threads)
    if stop.found is None:
        raise UserError(
            f"The run did not come to a step {content['step']} with these images: data or settings are others now."
        )
    return stop.found


def _read(record: AnyPath) -> dict[str, Any]:
    path = expand(record)
    if not path.is_file():
        raise UserError(f"No such record: {path}{similar_path(path, '*.json')}.")
    try:
        content = json.loads(path.read_text())
        if content["schema_version"] != 1 or not _is_whole(content):
            raise ValueError
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is no record of a step: give the `not_finite-step=....json` that the error of the run names."
        ) from error
    if content["processes"] > 1:
        raise UserError(
            f"The run had {content['processes']} processes, and one cannot repeat their step: start it from its last "
            "checkpoint with one process."
        )
    return dict(content)


def _is_whole(content: Mapping[str, Any]) -> bool:
    return all(isinstance(content[name], kind) for name, kind in _ENTRIES.items())


def _checkpoint(record: Path, content: Mapping[str, Any]) -> str | None:
    if content["checkpoint"] is None:
        return None
    path = record.parent / content["checkpoint"]  # an absolute path stays
    if not path.is_file():
        raise UserError(f"The checkpoint before the step is gone: {path}.")
    return str(path)


def _build(content: Mapping[str, Any], part: str, checkpoint: str | None) -> Any:
    """Model or data module of a record."""
    config = content[part]
    missing = {"it": "all"} if config is None else not_saved(config)
    if missing:
        raise UserError(
            f"The record does not hold `{next(iter(missing))}` of the {part}: `ppssl.diagnosis.replay.replay(path, "
            f"{part}=...)` takes a {part} as that of the run was."
        )
    arguments = config["init_args"]
    if checkpoint is not None and "pretrained" in arguments:  # its weights come from the checkpoint
        config = config | {"init_args": arguments | {"pretrained": False}}
    return instantiate(config)


class _Done(Exception):
    """Ends the run at the step."""


class _Stop(Callback):
    """Examines the step instead of making it.

    Args:
        record: The content of the record.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.found: Replay | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Examine the step if it is the one."""
        if trainer.global_step < self.record["step"]:
            return
        if trainer.global_step == self.record["step"]:
            if batch["index"].tolist() != self.record["images"]:
                return  # another micro-batch of the step
            self.found = examine(trainer, pl_module, batch, batch_idx, self.record)
        raise _Done
