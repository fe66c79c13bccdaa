"""Interrupted and resumed, a run is the uninterrupted one, bit for bit: weights, buffers, optimizer, counters, logs."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from faults import Crash
from ppssl.cli import main

RECIPE = Path(__file__).parents[2] / "experiments" / "folder" / "pretrain.yaml"
EPOCHS, STEPS = 4, 3
AIS = ["--model.plugins.ais.corpus=synthetic-birds", "--model.plugins.ais.teacher=synthetic-clip"]
IADM = [
    "--model.plugins.iadm=ppssl.IADM",
    "--model.plugins.iadm.debias=true",
    "--model.plugins.iadm.start=0",
]
TIMES = ("train/images_per_second", "train/data_wait")


def _arguments(
    images: Path, out: Path, more: Sequence[str], fault: dict[str, Any], logger: dict[str, Any]
) -> list[str]:
    """`ppssl fit` of a tiny run that is saved after each step, as its command line."""
    callbacks: list[Any] = [{"class_path": "faults.EpochMeans"}]
    callbacks += [{"class_path": "faults.Fault", "init_args": fault}] if fault else []
    written = {"class_path": "faults.FaultyLogger", "init_args": {"save_dir": str(out)} | logger}
    overlay = {"trainer": {"callbacks": callbacks, "logger": written}}
    out.mkdir(parents=True, exist_ok=True)
    (out / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    return [
        "fit",
        f"--config={RECIPE}",
        f"--config={out / 'overlay.yaml'}",
        f"--data.root={images}",
        f"--trainer.default_root_dir={out}",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--model.backbone_kwargs={width: 4}",
        "--model.contrastive.dim=8",
        "--data.image_size=32",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--data.val_fraction=0.25",
        "--checkpoint.every_n_train_steps=1",
        *more,
    ]


def _here(
    images: Path, out: Path, *more: str, fault: Any = None, logger: Any = None
) -> int | type[Crash]:
    """Run in this process; what it returned, or that it crashed."""
    try:
        return main(_arguments(images, out, ["--resume=auto", *more], fault or {}, logger or {}))
    except Crash:
        return Crash


def _child(
    images: Path, out: Path, *more: str, fault: Any = None, logger: Any = None
) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own."""
    arguments = _arguments(images, out, ["--resume=auto", *more], fault or {}, logger or {})
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ppssl", *arguments]
    return subprocess.run(
        command,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        process_group=0,  # signals to the group are not for the tests
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell may ignore
    )


def _checkpoints(out: Path) -> list[Path]:
    return sorted(out.rglob("last.ckpt"), key=lambda p: int(p.parts[-3].removeprefix("version_")))


def _final(out: Path) -> dict[str, Any]:
    """What the run ended with, without paths and clocks."""
    content = torch.load(_checkpoints(out)[-1], weights_only=True)
    content.pop("ppssl")
    content["callbacks"] = {k: v for k, v in content["callbacks"].items() if "Checkpoint" not in k}
    content["resume"].pop("settings")
    for name in TIMES:
        content["resume"]["line"]["metrics"].pop(name)
    return content


def _log(out: Path) -> dict[tuple[int, str], str]:
    """All that was logged, by step and name, as written; where two runs logged the same step, they must agree."""
    merged: dict[tuple[int, str], str] = {}
    for path in out.rglob("metrics.csv"):
        for row in csv.DictReader(path.open()):
            for name, value in row.items():
                if value and name not in (*TIMES, "step"):
                    assert merged.setdefault((int(row["step"]), name), value) == value, (path, row)
    return merged


def _assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            _assert_same(a, b, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, f"{where}: {one} and {other}"


def _assert_same_run(straight: Path, resumed: Path) -> None:
    _assert_same(_final(straight), _final(resumed))
    _assert_same(_log(straight), _log(resumed))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of three classes: three steps an epoch."""
    from PIL import Image

    root = tmp_path_factory.mktemp("resume") / "images"
    generator = torch.Generator().manual_seed(0)
    for label in range(3):
        (root / "train" / f"class{label}").mkdir(parents=True)
        for i in range(8):
            pixels = torch.randint(0, 200, (40, 48, 3), generator=generator, dtype=torch.uint8)
            pixels[..., label] += 55
            Image.fromarray(pixels.numpy()).save(root / "train" / f"class{label}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing interrupts."""
    out = tmp_path_factory.mktemp("straight")
    assert _here(images, out) == 0
    return out


def test_the_uninterrupted_run_is_what_it_should_be(straight: Path) -> None:
    final, log = _final(straight), _log(straight)
    assert final["global_step"] == EPOCHS * STEPS
    assert {step for step, name in log if name == "train/loss"} == set(range(EPOCHS * STEPS))
    epoch = [float(log[step, "train/loss"]) for step in range(STEPS)]
    assert float(log[STEPS - 1, "mine/sum"]) == pytest.approx(sum(epoch))
    sizes = [8, 9, 10]
    mean = sum(n * x for n, x in zip(sizes, epoch, strict=True)) / sum(sizes)
    assert float(log[STEPS - 1, "mine/mean"]) == pytest.approx(mean)
    assert float(log[STEPS - 1, "mine/max"]) == pytest.approx(max(epoch))
    assert float(log[STEPS - 1, "mine/sparse"]) == pytest.approx((epoch[0] + epoch[2]) / 2)


FEW = [
    {"step": 1},  # the first step of the first epoch
    {"step": 3, "place": "before_save"},  # the last
    {"step": 5},
    {"step": 6, "place": "epoch_start"},  # saved by the epoch
]
MANY = [
    {"step": 1, "place": "before_save"},
    {"step": 1},
    {"step": 2, "place": "before_save"},
    {"step": 3, "place": "before_save"},
    {"step": 3, "place": "validation"},
    {"step": 3, "place": "epoch_end"},
    {"step": 3, "place": "epoch_start"},
    {"step": 4},
    {"step": 5, "place": "before_save"},
    {"step": 5, "place": "before_save"},  # again, without progress
    {"step": 8},
    {"step": 9, "place": "epoch_start"},
    {"step": 12, "place": "before_save"},
    {"step": 12, "place": "epoch_end"},
]


@pytest.mark.parametrize(
    ("crashes", "workers"),
    [
        pytest.param(FEW, 0, id="few"),
        pytest.param(MANY, 0, id="many", marks=pytest.mark.slow),
        pytest.param(
            MANY, 2, id="many-workers", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]
        ),
    ],
)
def test_a_run_that_crashes_again_and_again_loses_nothing(
    crashes: list[dict[str, Any]], workers: int, images: Path, straight: Path, tmp_path: Path
) -> None:
    workers_option = f"--data.num_workers={workers}"
    for crash in crashes:
        fault = {"kind": "crash"} | crash
        assert _here(images, tmp_path, workers_option, fault=fault) is Crash, crash
    assert _here(images, tmp_path, workers_option) == 0
    _assert_same_run(straight, tmp_path)
    assert _here(images, tmp_path, workers_option) == 0  # nothing is left to do
    _assert_same_run(straight, tmp_path)


@pytest.mark.parametrize(
    ("step", "key"),
    [
        (3, "mine/mean"),
        pytest.param(2, "train/loss", marks=pytest.mark.slow),
        pytest.param(12, "mine/mean", marks=pytest.mark.slow),
    ],
)
def test_a_crash_between_checkpoint_and_log_loses_no_line(
    step: int, key: str, images: Path, straight: Path, tmp_path: Path
) -> None:
    fault = {"kind": "crash", "step": step, "key": key}
    assert _here(images, tmp_path, logger=fault) is Crash
    assert (step - 1, key) not in _log(tmp_path)
    assert _here(images, tmp_path) == 0
    _assert_same(_log(straight), _log(tmp_path))


OTHERWISE = {
    "ais and iadm": [*AIS, *IADM],
    "max_steps": ["--trainer.max_steps=11"],
    "accumulation": ["--trainer.accumulate_grad_batches=2"],
    "validation at each step": ["--trainer.val_check_interval=1"],
    "validation every second epoch": ["--trainer.check_val_every_n_epoch=2"],
    "bf16": ["--trainer.precision=bf16-mixed"],
    "sgd": ["--model.optimizer=sgd", "--model.lr=0.1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("more", OTHERWISE.values(), ids=OTHERWISE)
def test_whatever_is_trained(more: list[str], images: Path, tmp_path: Path) -> None:
    assert _here(images, tmp_path / "straight", *more) == 0
    for step in (1, 3, 5):
        assert (
            _here(images, tmp_path / "resumed", *more, fault={"kind": "crash", "step": step})
            is Crash
        )
    assert _here(images, tmp_path / "resumed", *more) == 0
    _assert_same_run(tmp_path / "straight", tmp_path / "resumed")


def _saved(out: Path) -> int:
    return max(
        (torch.load(p, weights_only=True)["global_step"] for p in _checkpoints(out)), default=0
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_processes_of_their_own(
    workers: int, images: Path, straight: Path, tmp_path: Path
) -> None:
    for crash in ({"step": 1}, {"step": 3, "place": "before_save"}, *FEW[2:]):
        fault = {"kind": "SIGKILL"} | crash
        done = _child(images, tmp_path, f"--data.num_workers={workers}", fault=fault)
        assert done.returncode == -9, done.stderr[-3000:]
    assert _here(images, tmp_path, f"--data.num_workers={workers}") == 0
    _assert_same_run(straight, tmp_path)


SIGNALS = [  # what happens, how it ends, the step that is saved then; checkpoints come from the signal alone
    ({"kind": "group SIGINT", "step": 2, "place": "before_save"}, 130, 2),
    ({"kind": "SIGTERM", "step": 3, "place": "validation"}, 143, 2),  # Lightning ends it at once
    ({"kind": "group SIGINT", "step": 3, "place": "validation"}, 130, 3),  # done, then saved
    ({"kind": "group SIGINT", "step": 4}, 130, 5),  # in mid-step: the step is done, then saved
    ({"kind": "SIGTERM", "step": 6}, 143, 7),
    ({"kind": "group SIGINT", "step": 8, "repeat": 2}, 130, 7),  # at once: a step is done again
    ({"kind": "SIGTERM", "step": 8, "place": "before_save"}, 143, 8),
    (
        {"kind": "SIGTERM", "step": 8},
        143,
        8,
    ),  # an epoch's last step: in the validation after it, at once
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("workers", "signals"),
    [(0, SIGNALS), (2, SIGNALS[:1] + SIGNALS[3:4])],
    ids=["alone", "workers"],
)
def test_asked_to_stop(
    workers: int, signals: Sequence[Any], images: Path, straight: Path, tmp_path: Path
) -> None:
    more = [f"--data.num_workers={workers}", "--checkpoint.every_n_train_steps=1000"]
    for fault, code, step in signals:
        done = _child(images, tmp_path, *more, fault=fault)
        assert done.returncode == code, (fault, done.stderr[-3000:])
        assert "Traceback" not in done.stderr, done.stderr
        assert "--resume auto` goes on" in done.stderr
        assert _saved(tmp_path) == step, fault
    assert _here(images, tmp_path, *more) == 0
    _assert_same_run(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_that_are_terminated_first(images: Path, straight: Path, tmp_path: Path) -> None:
    """As `timeout` and batch systems do, SIGTERM to all processes: torch then ends the run in mid-step."""
    fault = {"kind": "group SIGTERM", "step": 4}
    done = _child(images, tmp_path, "--data.num_workers=2", fault=fault)
    assert done.returncode == 143, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr
    assert _here(images, tmp_path, "--data.num_workers=2") == 0
    _assert_same_run(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "code"), [("disk full", 2), ("kill in writing", -25)])
def test_a_checkpoint_that_cannot_be_finished(
    kind: str, code: int, images: Path, straight: Path, tmp_path: Path
) -> None:
    step = 5
    done = _child(images, tmp_path, fault={"kind": kind, "step": step, "place": "before_save"})
    assert done.returncode == code, done.stderr[-3000:]
    if code == 2:
        assert "Traceback" not in done.stderr, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("ppssl: ")]
        assert "No space left" in line
        assert not list(tmp_path.rglob("*.part"))
    assert _saved(tmp_path) == step - 1
    assert _here(images, tmp_path) == 0
    _assert_same_run(straight, tmp_path)


@pytest.mark.parametrize("damage", ["torn", "overwritten"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, images: Path, straight: Path, tmp_path: Path
) -> None:
    assert _here(images, tmp_path, fault={"kind": "crash", "step": 5}) is Crash
    (last,) = _checkpoints(tmp_path)
    content = bytearray(last.read_bytes())
    half = len(content) // 2
    last.write_bytes(
        content[:half] if damage == "torn" else content[:half] + bytes(999) + content[half + 999 :]
    )
    with pytest.warns(UserWarning, match="Passed over") as caught:
        assert (
            _here(images, tmp_path, fault={"kind": "crash", "step": 4, "place": "batch_start"})
            is Crash
        )
    assert len([w for w in caught if "Passed over" in str(w.message)]) == 1
    last.unlink()
    assert _here(images, tmp_path) == 0
    _assert_same_run(straight, tmp_path)


def test_nothing_to_go_on_from_and_other_settings_are_said(
    images: Path, tmp_path: Path, caplog: Any
) -> None:
    assert _here(images, tmp_path, fault={"kind": "crash", "step": 1}) is Crash
    assert f"Nothing to resume in {tmp_path}: starting anew." in caplog.text
    more = ["--model.lr=0.5", "--data.batch_size=4", "--data.num_workers=1"]
    with pytest.warns(UserWarning, match="is set otherwise") as caught:
        assert _here(images, tmp_path, *more, fault={"kind": "crash", "step": 2}) is Crash
    (said,) = [str(w.message) for w in caught if "is set otherwise" in str(w.message)]
    assert "`steps in all` 12 -> 24, `model.lr` 0.001 -> 0.5, `data.batch_size` 8 -> 4." in said


@pytest.mark.parametrize("logger", ["true", "false"])
def test_several_runs_in_one_folder(logger: str, images: Path, tmp_path: Path) -> None:
    arguments = _arguments(images, tmp_path, [], {}, {})
    arguments = [a for a in arguments if "overlay" not in a]
    for lr in ("0.001", "0.002"):
        more = [f"--trainer.logger={logger}", "--trainer.max_epochs=1", f"--model.lr={lr}"]
        assert main([*arguments, *more]) == 0
    versions = sorted((tmp_path / "lightning_logs").iterdir()) if logger == "true" else [tmp_path]
    assert len(versions) == (2 if logger == "true" else 1)
    for version, lr in zip(versions, (0.001, 0.002)[-len(versions) :], strict=True):
        config = yaml.safe_load((version / "config.yaml").read_text())
        assert config["model"]["init_args"]["lr"] == lr
        names = {path.name for path in (version / "checkpoints").iterdir()}
        assert names == {"last.ckpt", "previous.ckpt", "epoch=0-step=3.ckpt"}
