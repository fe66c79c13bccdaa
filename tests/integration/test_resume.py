"""Interrupted and resumed, a run is the uninterrupted one, bit for bit: weights, buffers, optimizer, counters, logs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from fault_injection import Crash
from interrupted import (
    EPOCHS,
    STEPS,
    assert_same,
    assert_same_run,
    checkpoints,
    final_state,
    fit_options,
    logged,
    run_child,
    run_here,
    saved_step,
)
from ppssl.cli.main import main

AIS = ["--model.plugins.ais.corpus=synthetic-birds", "--model.plugins.ais.teacher=synthetic-clip"]
IADM = [
    "--model.plugins.iadm=ppssl.IADM",
    "--model.plugins.iadm.debias=true",
    "--model.plugins.iadm.start=0",
]


def test_the_uninterrupted_run_is_what_it_should_be(straight: Path) -> None:
    final, log = final_state(straight), logged(straight)
    assert final["global_step"] == EPOCHS * STEPS
    assert {step for step, name in log if name == "train/loss"} == set(range(EPOCHS * STEPS))
    epoch = [float(log[step, "train/loss"]) for step in range(STEPS)]
    assert float(log[STEPS - 1, "mine/sum"]) == pytest.approx(sum(epoch))
    sizes = [8, 9, 10]
    mean = sum(n * x for n, x in zip(sizes, epoch, strict=True)) / sum(sizes)
    assert float(log[STEPS - 1, "mine/mean"]) == pytest.approx(mean)
    assert float(log[STEPS - 1, "mine/first_mean"]) == pytest.approx(epoch[0])
    assert float(log[STEPS - 1, "mine/first_max_epoch"]) == pytest.approx(epoch[0])
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
        assert run_here(images, tmp_path, workers_option, fault=fault) is Crash, crash
    assert run_here(images, tmp_path, workers_option) == 0
    assert_same_run(straight, tmp_path)
    assert run_here(images, tmp_path, workers_option) == 0  # nothing is left to do
    assert_same_run(straight, tmp_path)


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
    assert run_here(images, tmp_path, logger=fault) is Crash
    assert (step - 1, key) not in logged(tmp_path)
    assert run_here(images, tmp_path) == 0
    assert_same(logged(straight), logged(tmp_path))


OTHERWISE = {
    "ais and iadm": [*AIS, *IADM],
    "max_steps": ["--trainer.max_steps=11"],
    "accumulation": ["--trainer.accumulate_grad_batches=2"],
    "validation at each step": ["--trainer.val_check_interval=1"],
    "validation every second epoch": ["--trainer.check_val_every_n_epoch=2"],
    "bf16": ["--trainer.precision=bf16-mixed"],
    "sgd": ["--model.optimizer=sgd", "--model.lr=0.1"],
    "dropout": [
        "--model.backbone=vit_tiny_patch16_224",
        "--model.image_size=32",
        "--model.backbone_kwargs={depth: 1, embed_dim: 24, num_heads: 2, proj_drop_rate: 0.2}",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("more", OTHERWISE.values(), ids=OTHERWISE)
def test_whatever_is_trained(more: list[str], images: Path, tmp_path: Path) -> None:
    assert run_here(images, tmp_path / "straight", *more) == 0
    for step in (1, 3, 5):
        assert (
            run_here(images, tmp_path / "resumed", *more, fault={"kind": "crash", "step": step})
            is Crash
        )
    assert run_here(images, tmp_path / "resumed", *more) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["finetune", "linear"])
def test_classifiers(recipe: str, images: Path, tmp_path: Path) -> None:
    """The first epoch of fine-tuning trains the linear layer alone."""
    run = partial(run_here, images, recipe=recipe)
    more = "--data.batch_size=6"  # of 18 images, as labels are held out
    assert run(tmp_path / "straight", more) == 0
    final, log = final_state(tmp_path / "straight"), logged(tmp_path / "straight")
    assert final["global_step"] == EPOCHS * STEPS
    assert ("averaging_state" in final) == (recipe == "finetune")
    last = EPOCHS * STEPS - 1
    assert {(last, f"val/{name}") for name in ("top1", "top5", "macro")} <= log.keys()
    for crash in (*FEW, {"step": 9, "place": "validation"}, {"step": 11, "place": "before_save"}):
        fault = {"kind": "crash"} | crash
        assert run(tmp_path / "resumed", more, fault=fault) is Crash, crash
    assert run(tmp_path / "resumed", more) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


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
        done = run_child(images, tmp_path, *more, fault=fault)
        assert done.returncode == code, (fault, done.stderr[-3000:])
        assert "Traceback" not in done.stderr, done.stderr
        assert "--resume auto` continues" in done.stderr
        assert saved_step(tmp_path) == step, fault
    assert run_here(images, tmp_path, *more) == 0
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_that_are_terminated_first(images: Path, straight: Path, tmp_path: Path) -> None:
    """As `timeout` and batch systems do, SIGTERM to all processes: torch then ends the run in mid-step."""
    fault = {"kind": "group SIGTERM", "step": 4}
    done = run_child(images, tmp_path, "--data.num_workers=2", fault=fault)
    assert done.returncode == 143, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr
    assert run_here(images, tmp_path, "--data.num_workers=2") == 0
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "code"), [("disk full", 2), ("kill in writing", -25)])
def test_a_checkpoint_that_cannot_be_finished(
    kind: str, code: int, images: Path, straight: Path, tmp_path: Path
) -> None:
    step = 5
    done = run_child(images, tmp_path, fault={"kind": kind, "step": step, "place": "before_save"})
    assert done.returncode == code, done.stderr[-3000:]
    if code == 2:
        assert "Traceback" not in done.stderr, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("ppssl: ")]
        assert "No space left" in line
        assert not list(tmp_path.rglob("*.part"))
    assert saved_step(tmp_path) == step - 1
    assert run_here(images, tmp_path) == 0
    assert_same_run(straight, tmp_path)


@pytest.mark.parametrize("damage", ["torn", pytest.param("overwritten", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, images: Path, straight: Path, tmp_path: Path
) -> None:
    assert run_here(images, tmp_path, fault={"kind": "crash", "step": 5}) is Crash
    (last,) = checkpoints(tmp_path)
    content = bytearray(last.read_bytes())
    half = len(content) // 2
    last.write_bytes(
        content[:half] if damage == "torn" else content[:half] + bytes(999) + content[half + 999 :]
    )
    with pytest.warns(UserWarning, match="Passed over") as caught:
        assert (
            run_here(images, tmp_path, fault={"kind": "crash", "step": 4, "place": "batch_start"})
            is Crash
        )
    assert len([w for w in caught if "Passed over" in str(w.message)]) == 1
    last.unlink()
    assert run_here(images, tmp_path) == 0
    assert_same_run(straight, tmp_path)


def test_nothing_to_go_on_from_and_other_settings_are_said(
    images: Path, tmp_path: Path, caplog: Any
) -> None:
    assert run_here(images, tmp_path, fault={"kind": "crash", "step": 1}) is Crash
    assert f"Nothing to resume in {tmp_path}: starting anew." in caplog.text
    more = ["--model.lr=0.5", "--data.batch_size=4", "--data.num_workers=1"]
    with pytest.warns(UserWarning, match="is set otherwise") as caught:
        assert run_here(images, tmp_path, *more, fault={"kind": "crash", "step": 2}) is Crash
    (said,) = [str(w.message) for w in caught if "is set otherwise" in str(w.message)]
    assert "`steps in all` 12 -> 24, `model.lr` 0.001 -> 0.5, `data.batch_size` 8 -> 4." in said


@pytest.mark.parametrize("logger", ["true", "false"])
def test_several_runs_in_one_folder(logger: str, images: Path, tmp_path: Path) -> None:
    arguments = fit_options(images, tmp_path, [], {}, {})
    arguments = [a for a in arguments if not a.endswith("-overlay.yaml")]
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


@pytest.mark.slow
def test_resumed_in_its_own_folder(images: Path, straight: Path, tmp_path: Path) -> None:
    """A logger of a fixed version: Lightning's would begin its file anew with every start."""
    fixed = {"version": 0}
    for crash in ({"step": 2}, {"step": 4}, {"step": 9, "place": "epoch_start"}):
        fault = {"kind": "crash"} | crash
        assert run_here(images, tmp_path, fault=fault, logger=fixed) is Crash
    assert run_here(images, tmp_path, logger=fixed) == 0
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
    assert_same_run(straight, tmp_path)
