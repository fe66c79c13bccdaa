"""A run to report on: its checkpoint, its logs and settings, and the encoder that it began with."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ppssl.checkpointing.atomic import newest_checkpoint
from ppssl.checkpointing.files import read_checkpoint
from ppssl.encoder import Encoder
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.paths import AnyPath, expand
from ppssl.utils.randomness import initial_weights, resolve_seed

__all__ = [
    "EVENTS",
    "METRICS",
    "Run",
    "find_checkpoint",
    "find_run",
    "start_and_end",
    "starting_encoder",
]

EVENTS, METRICS = "events.out.tfevents.*", "metrics.csv"
"""Files that TensorBoard's and the CSV logger write."""
_UNNAMED = re.compile(r"checkpoints|lightning_logs|version_\d+|")
"""Folders whose names say nothing about a run."""


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: Name of its folder.
        checkpoint: Its checkpoint.
        content: What the checkpoint holds, without the weights.
        logs: Folders with the logs of its starts, the last start first.
        settings: Its ``config.yaml``; empty if there is none.
    """

    name: str
    checkpoint: Path
    content: dict[str, Any]
    logs: list[Path]
    settings: dict[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        """Constructor arguments of the model."""
        return dict(self.content["ppssl"]["model"]["init_args"])

    @property
    def seed(self) -> int:
        """The seed of the run, 0 where it is not known."""
        seed = self.settings.get("seed_everything")
        return seed if type(seed) is int and 0 <= seed < 2**32 else resolve_seed(None)


def start_and_end(run: Run) -> dict[str, Any]:
    """What :class:`~ppssl.callbacks.monitor.RepresentationMonitor` measured at the start and at the end of a run.

    Its file beside the log is complete; without labels the end is measured after the last checkpoint.
    """
    for folder in run.logs[:1]:
        try:
            written = _compared(json.loads((folder / "start_and_end.json").read_text()))
        except (OSError, ValueError):
            continue
        if written:
            return written
    return _compared(run.content.get("callbacks", {}).get("RepresentationMonitor", {}))


def _compared(content: Any) -> dict[str, Any]:
    """The content if it is what the monitor writes, else nothing."""
    if not isinstance(content, dict) or not isinstance(content.get("end_epoch"), int):
        return {}
    values = [content.get("start"), content.get("end")]
    numbers = [v for part in values if isinstance(part, dict) for v in part.values()]
    whole = all(isinstance(part, dict) for part in values)
    return content if whole and all(isinstance(v, int | float) for v in numbers) else {}


def find_run(path: AnyPath) -> Run:
    """Find a run by its folder or by a checkpoint.

    Args:
        path: A checkpoint; or a folder, whose readable checkpoint with the highest step is taken.

    Raises:
        UserError: There is no such file or folder, no checkpoint in it, or the checkpoint cannot be read.
    """
    checkpoint = find_checkpoint(path)
    content = {k: v for k, v in read_checkpoint(checkpoint).items() if k != "state_dict"}
    logs = _logs(checkpoint)
    return Run(_name(expand(path)), checkpoint, content, logs, _settings(logs))


def find_checkpoint(path: AnyPath) -> Path:
    """The checkpoint of a run, which is not read.

    Args:
        path: A checkpoint; or a folder, as :func:`find_run` takes it.

    Raises:
        UserError: There is no such file or folder, or no checkpoint in it.
    """
    path = expand(path)
    if not path.exists():
        raise UserError(
            f"No such run or checkpoint: {path}{similar_path(path)}. Give the folder of a run "
            "(`trainer.default_root_dir`) or a checkpoint."
        )
    checkpoint = newest_checkpoint(path) if path.is_dir() else path
    if checkpoint is None:
        raise UserError(
            f"No checkpoint (*.ckpt) in the folder {path}: give the folder of a run, which holds its last.ckpt."
        )
    return checkpoint


def starting_encoder(run: Run) -> tuple[str, Encoder]:
    """The encoder as it was before the training, and one line on its weights.

    Random weights are those of the run if its ``init_seed`` or the seed in its ``config.yaml`` is known.

    Raises:
        UserError: Its pretrained weights cannot be had, or it was a module.
    """
    spec, model = run.content["ppssl"]["encoder"], run.model
    if not isinstance(spec["backbone"], str):
        raise UserError("No checkpoint holds the weights that a module began with.")
    pretrained = model.get("pretrained") or False
    if pretrained:
        source = "timm's weights" if pretrained is True else Path(pretrained).name
        return f"{spec['backbone']} with {source}", Encoder(**spec, pretrained=pretrained)
    init_seed = model.get("init_seed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        with initial_weights(init_seed, "encoder"):
            encoder = Encoder(**spec)
    seed = run.seed if init_seed is None else init_seed
    return f"{spec['backbone']} with random weights, seed {seed}", encoder


def _name(path: Path) -> str:
    """Name of the innermost folder that says something; of a checkpoint elsewhere its own name."""
    path = path.resolve()
    folders = [path, *path.parents] if path.is_dir() else list(path.parents)
    for depth, folder in enumerate(folders):
        if not _UNNAMED.fullmatch(folder.name):
            return folder.name if path.is_dir() or depth else path.stem
    return path.stem


def _logs(checkpoint: Path) -> list[Path]:
    """Log folders of the starts up to the one that wrote a checkpoint, the last one first."""
    for folder in checkpoint.parents[:2]:
        if _has_log(folder):
            return [folder, *_earlier(folder)]
    for folder in checkpoint.parents[:2]:  # checkpoints in a folder that all starts share
        versions = [v for v in folder.glob("lightning_logs/version_*") if _has_log(v)]
        if versions:
            return sorted(versions, key=_version, reverse=True)
    return []


def _has_log(folder: Path) -> bool:
    return any(True for pattern in (EVENTS, METRICS) for _ in folder.glob(pattern))


def _earlier(folder: Path) -> list[Path]:
    """Logs of the versions before one, the last one first."""
    versions = [v for v in folder.parent.glob("version_*") if _version(v) < _version(folder)]
    return sorted(filter(_has_log, versions), key=_version, reverse=True)


def _version(folder: Path) -> int:
    digits = folder.name.removeprefix("version_")
    return int(digits) if digits.isdecimal() else -1


def _settings(logs: list[Path]) -> dict[str, Any]:
    """The settings that LightningCLI wrote beside the log; of ``fit`` they may be below its name."""
    file = logs[0] / "config.yaml" if logs else None
    if file is None or not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    if not isinstance(content, dict):
        return {}
    trainer = content.get("trainer")
    return content | {"trainer": trainer if isinstance(trainer, dict) else {}}
