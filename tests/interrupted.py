"""A tiny run by the command line, interrupted at will, and what must be equal when it has been resumed."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fault_injection import Crash
from ppssl.checkpointing.atomic import newest_checkpoint
from ppssl.cli.main import main

RECIPES = Path(__file__).parents[1] / "experiments" / "folder"
EPOCHS, STEPS = 4, 3
MODEL = {
    "pretrain": ["--model.contrastive.dim=8"],
    "finetune": ["--model.ema_decay=0.9", "--model.mixup=0.2"],
    "linear": [],
}
"""Recipes, and what they need beside the common options."""

EVERY_EPOCH = {
    "class_path": "ppssl.callbacks.monitor.RepresentationMonitor",
    "init_args": {"every_n_epochs": 1},
}
"""A validation in each epoch, which may be interrupted, too."""

TIMES = ("train/images_per_second", "train/data_wait")


def fit_options(
    images: Path,
    out: Path,
    more: Sequence[str],
    fault: dict[str, Any],
    logger: dict[str, Any],
    recipe: str = "pretrain",
) -> list[str]:
    """`ppssl fit` of a tiny run that is saved after each step, as its command line."""
    callbacks: list[Any] = [{"class_path": "fault_injection.EpochMeans"}]
    callbacks += [{"class_path": "fault_injection.Fault", "init_args": fault}] if fault else []
    callbacks += [EVERY_EPOCH] if recipe == "pretrain" else []
    written = {
        "class_path": "fault_injection.FaultyLogger",
        "init_args": {"save_dir": str(out)} | logger,
    }
    overlay = {"trainer": {"callbacks": callbacks, "logger": written}}
    beside = out.with_name(f"{out.name}-overlay.yaml")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(yaml.safe_dump(overlay))
    return [
        "fit",
        f"--config={RECIPES / recipe}.yaml",
        f"--config={beside}",
        f"--data.root={images}",
        f"--trainer.default_root_dir={out}",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--model.backbone_kwargs={width: 4}",
        *MODEL[recipe],
        "--data.image_size=32",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--data.val_fraction=0.25",
        "--checkpoint.every_n_train_steps=1",
        *more,
    ]


def run_here(
    images: Path,
    out: Path,
    *more: str,
    fault: Any = None,
    logger: Any = None,
    recipe: str = "pretrain",
) -> int | type[Crash]:
    """Run in this process; what it returned, or that it crashed."""
    try:
        more = ("--resume=auto", *more)
        return main(fit_options(images, out, more, fault or {}, logger or {}, recipe))
    except Crash:
        return Crash


def run_child(
    images: Path,
    out: Path,
    *more: str,
    fault: Any = None,
    logger: Any = None,
    inside: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, by a command that it is given to."""
    arguments = fit_options(images, out, ["--resume=auto", *more], fault or {}, logger or {})
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [*inside, sys.executable, "-m", "ppssl", *arguments]
    return subprocess.run(
        command,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        process_group=0,  # signals to the group are not for the tests
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell may ignore
    )


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.rglob("last.ckpt"), key=lambda p: int(p.parts[-3].removeprefix("version_")))


def saved_step(out: Path) -> int:
    """The highest global step that can be gone on from; 0 where there is none."""
    newest = newest_checkpoint(out)
    return 0 if newest is None else int(torch.load(newest, weights_only=True)["global_step"])


def final_state(out: Path) -> dict[str, Any]:
    """What the run ended with, without paths and clocks."""
    content = torch.load(checkpoints(out)[-1], weights_only=True)
    content.pop("ppssl")
    content["callbacks"] = {k: v for k, v in content["callbacks"].items() if "Checkpoint" not in k}
    content["resume"].pop("settings")
    for name in TIMES:
        content["resume"]["line"]["metrics"].pop(name, None)
    return content


def logged(out: Path) -> dict[tuple[int, str], str]:
    """All that was logged, by step and name, as written; where two runs logged the same step, they must agree."""
    merged: dict[tuple[int, str], str] = {}
    for step, name, value in [*_from_csv(out), *_from_events(out)]:
        if name not in (*TIMES, "step"):
            assert merged.setdefault((step, name), value) == value, (step, name, value)
    return merged


def _from_csv(out: Path) -> Iterator[tuple[int, str, str]]:
    for path in out.rglob("metrics.csv"):
        for row in csv.DictReader(path.open()):
            yield from ((int(row["step"]), name, value) for name, value in row.items() if value)


def _from_events(out: Path) -> Iterator[tuple[int, str, str]]:
    for path in out.rglob("events.out.*"):
        events = EventAccumulator(str(path)).Reload()
        for name in events.Tags()["scalars"]:
            yield from ((event.step, name, str(event.value)) for event in events.Scalars(name))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (where, one.keys() ^ other.keys())
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, f"{where}: {one} and {other}"


def assert_same_run(straight: Path, resumed: Path) -> None:
    assert_same(final_state(straight), final_state(resumed))
    assert_same(logged(straight), logged(resumed))
