"""A run that is resumed with other batches or steps goes on at the same images and fraction of its schedule."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from fault_injection import Crash
from ppssl import PPSSL, AtomicCheckpointIO, FineTune, FolderDataModule, RunCheckpoint
from tiny import TinyEncoder

IMAGES, EPOCHS, BATCH = 24, 4, 4
STEPS = IMAGES // BATCH


@dataclass
class Record(Callback):
    """What each step was made with; a crash at the beginning of the step after ``stop``."""

    stop: int | None = None
    progress: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    images: list[tuple[int, Tensor]] = field(default_factory=list)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.stop:
            raise Crash
        self.images.append((trainer.current_epoch, batch["index"]))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.progress.append(getattr(pl_module, "progress", math.nan))
        self.lr.append(trainer.optimizers[0].param_groups[0]["lr"])

    def of_epoch(self, epoch: int) -> list[int]:
        return [int(i) for e, index in self.images if e == epoch for i in index]


def _fit(
    images: Path,
    folder: Path,
    *,
    stop: int | None = None,
    ckpt: Path | None = None,
    batch: int = BATCH,
    model: Any = None,
    **options: Any,
) -> tuple[Record, Any]:
    record = Record(stop)
    model = model or PPSSL(TinyEncoder(), base_lr=0.64, weight_decay=1e-3)
    trainer = Trainer(
        **{"max_epochs": EPOCHS} | options,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[record, RunCheckpoint(dirpath=folder, every_n_train_steps=1)],
        plugins=[AtomicCheckpointIO()],
    )
    data = FolderDataModule(images, image_size=32, batch_size=batch, num_workers=0, val_fraction=0)
    try:
        trainer.fit(model, data, ckpt_path=ckpt)
    except Crash:
        assert stop is not None
    return record, model


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


STOPS = [STEPS, 9, 2 * STEPS + 5, EPOCHS * STEPS - 1]
SETTINGS: list[tuple[dict[str, Any], int, float]] = [
    ({"batch": 8}, 3, 2.0),
    ({"batch": 2}, 12, 0.5),
    ({"batch": 5}, 4, 1.25),
    ({"accumulate_grad_batches": 2}, 3, 2.0),
    ({"batch": 2, "accumulate_grad_batches": 2}, 6, 1.0),
    ({"limit_train_batches": 4}, 4, 1.0),
]


@pytest.mark.parametrize(
    ("changed", "steps", "rate", "stop"),
    [
        # each setting with two of the stops by default
        pytest.param(*row, stop, marks=[] if (i + j) % 2 == 0 else [pytest.mark.slow])
        for i, row in enumerate(SETTINGS)
        for j, stop in enumerate(STOPS)
    ],
)
def test_schedule_and_images_go_on(
    changed: dict[str, Any],
    steps: int,
    rate: float,
    stop: int,
    image_folder: Path,
    tmp_path: Path,
) -> None:
    before, _ = _fit(image_folder, tmp_path, stop=stop)
    after, model = _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt", **changed)
    total = EPOCHS * steps
    assert before.progress[-1] == pytest.approx((stop - 1) / (EPOCHS * STEPS))
    if changed.get("limit_train_batches", STEPS) >= STEPS or stop % STEPS == 0:
        assert after.progress[0] == pytest.approx(stop / (EPOCHS * STEPS), abs=1.01 / total)
    gains = torch.tensor(after.progress).diff()
    torch.testing.assert_close(gains, torch.full_like(gains, 1 / total), atol=1e-5, rtol=0)
    assert after.progress[-1] == pytest.approx(1 - 1 / total)
    expected = [0.64 * rate * BATCH / 128 * _cosine(p) for p in after.progress]
    assert after.lr == pytest.approx(expected)
    assert model.trainer.current_epoch == EPOCHS
    if changed.get("batch") == 5 or "limit_train_batches" in changed:
        return  # some images of each epoch are left out
    epoch = stop // STEPS
    seen = before.of_epoch(epoch) + after.of_epoch(epoch)
    repeated = len(seen) - IMAGES
    assert set(seen) == set(range(IMAGES))
    assert 0 <= repeated <= max(0, changed.get("batch", BATCH) - BATCH)
    for later in range(epoch + 1, EPOCHS):
        assert sorted(after.of_epoch(later)) == list(range(IMAGES))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stop=st.integers(1, EPOCHS * STEPS - 1),
    batch=st.sampled_from([n for n in range(1, IMAGES // 2 + 1) if IMAGES % n == 0]),
    accumulate=st.integers(1, 4),
    epochs=st.integers(EPOCHS, EPOCHS + 2),
)
def test_any_step_and_settings(
    stop: int,
    batch: int,
    accumulate: int,
    epochs: int,
    image_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Wherever a run stops, and whatever is changed: no image is lost, and the schedule ends where it should."""
    folder = tmp_path_factory.mktemp("any")
    before, _ = _fit(image_folder, folder, stop=stop)
    options = {"batch": batch, "accumulate_grad_batches": accumulate, "max_epochs": epochs}
    after, model = _fit(image_folder, folder, ckpt=folder / "last.ckpt", **options)
    total = epochs * math.ceil(IMAGES / batch / accumulate)
    assert model.trainer.current_epoch == epochs
    step = min(1, batch * accumulate / IMAGES) / epochs  # the last one of an epoch is shorter
    assert after.progress[0] == pytest.approx(stop / STEPS / epochs, abs=1.01 * step)
    assert after.progress[-1] == pytest.approx(1 - 1 / total)
    gains = torch.tensor(after.progress).diff()
    torch.testing.assert_close(gains, torch.full_like(gains, 1 / total), atol=1e-5, rtol=0)
    rate = 0.64 * batch * accumulate / 128
    assert after.lr == pytest.approx([rate * _cosine(p) for p in after.progress])
    epoch = stop // STEPS
    seen = before.of_epoch(epoch) + after.of_epoch(epoch)
    assert set(seen) == set(range(IMAGES))
    assert len(seen) - IMAGES < batch  # of a batch that was begun
    for later in range(epoch + 1, epochs):
        assert sorted(after.of_epoch(later)) == list(range(IMAGES))


@pytest.mark.parametrize("stop", [STEPS, 9])
def test_interrupted_again_it_is_the_same_run(
    stop: int, image_folder: Path, tmp_path: Path
) -> None:
    _fit(image_folder, tmp_path, stop=stop)
    checkpoint = tmp_path / "first.ckpt"
    (tmp_path / "last.ckpt").rename(checkpoint)
    straight, expected = _fit(image_folder, tmp_path, ckpt=checkpoint, batch=8)
    begun, _ = _fit(image_folder, tmp_path, ckpt=checkpoint, batch=8, stop=stop + 2)
    again, model = _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt", batch=8)
    assert begun.progress + again.progress == straight.progress
    assert begun.lr + again.lr == straight.lr
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_back_to_the_first_settings(image_folder: Path, tmp_path: Path) -> None:
    straight, _ = _fit(image_folder, tmp_path / "straight")
    _fit(image_folder, tmp_path, stop=STEPS)
    _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt", batch=8, stop=STEPS + 3)
    back, _ = _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt")
    assert back.progress == pytest.approx(straight.progress[2 * STEPS :])
    assert back.lr == pytest.approx(straight.lr[2 * STEPS :])


def test_a_run_that_ends_by_steps_goes_on_by_steps(image_folder: Path, tmp_path: Path) -> None:
    options = {"max_epochs": -1, "max_steps": 20}
    _fit(image_folder, tmp_path, stop=9, **options)
    after, model = _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt", batch=8, **options)
    assert after.progress == pytest.approx([step / 20 for step in range(9, 20)])
    assert model.global_step == 20


def test_more_epochs_stretch_the_schedule(image_folder: Path, tmp_path: Path) -> None:
    _fit(image_folder, tmp_path, stop=STEPS)
    after, _ = _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt", max_epochs=2 * EPOCHS)
    total = 2 * EPOCHS * STEPS
    assert after.progress == pytest.approx([step / total for step in range(STEPS, total)])


def test_new_options_of_the_optimizer_hold(image_folder: Path, tmp_path: Path) -> None:
    _fit(image_folder, tmp_path, stop=9, model=PPSSL(TinyEncoder(), lr=0.1, weight_decay=1e-4))
    changed = PPSSL(TinyEncoder(), lr=0.2, weight_decay=1e-3, sgd_momentum=0.8)
    after, _ = _fit(image_folder, tmp_path, ckpt=tmp_path / "last.ckpt", model=changed)
    assert after.lr == pytest.approx([0.2 * _cosine(p) for p in after.progress])
    groups = changed.trainer.optimizers[0].param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 1e-3}
    assert {group["momentum"] for group in groups} == {0.8}


def test_a_classifier_goes_on_likewise(image_folder: Path, tmp_path: Path) -> None:
    def model() -> FineTune:
        return FineTune(TinyEncoder(), lr=0.01, warmup_fraction=0.0)

    straight, _ = _fit(image_folder, tmp_path / "straight", model=model(), batch=8)
    _fit(image_folder, tmp_path, model=model(), stop=STEPS)
    after, _ = _fit(image_folder, tmp_path, model=model(), ckpt=tmp_path / "last.ckpt", batch=8)
    assert after.lr == pytest.approx(straight.lr[3:])
