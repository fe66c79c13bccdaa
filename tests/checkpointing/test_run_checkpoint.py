"""When checkpoints are written, and how."""

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ppssl import UserError
from ppssl.checkpointing.atomic import AtomicCheckpointIO, newest_checkpoint
from ppssl.checkpointing.run_checkpoint import RunCheckpoint


class Tiny(LightningModule):
    """One weight, trained towards larger and larger values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("loss", self.layer(batch).mean())
        return self.layer(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(folder: Path, callback: RunCheckpoint, *, epochs: int = 2, **kwargs: Any) -> list[str]:
    """The names and steps of what was written, in order: 4 steps an epoch."""
    written: list[str] = []

    class Writes(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            written.append(f"{Path(path).name} {checkpoint['global_step']}")
            super().save_checkpoint(checkpoint, path)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=[callback],
        plugins=[Writes()],
        **quiet | kwargs,
    )
    trainer.fit(Tiny(), DataLoader(torch.ones(4, 1)))
    return written


def test_by_steps_and_never_on_an_epochs_last_batch(tmp_path: Path) -> None:
    assert _fit(tmp_path, RunCheckpoint(every_n_train_steps=2)) == [
        "last.ckpt 2",
        "epoch=0-step=4.ckpt 4",
        "last.ckpt 4",
        "last.ckpt 6",
        "epoch=1-step=8.ckpt 8",
        "last.ckpt 8",
    ]
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [
        "epoch=1-step=8.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    steps = {p.name: torch.load(p, weights_only=True)["global_step"] for p in folder.iterdir()}
    assert steps == {"epoch=1-step=8.ckpt": 8, "last.ckpt": 8, "previous.ckpt": 6}


def test_by_time(tmp_path: Path) -> None:
    every_step = _fit(tmp_path, RunCheckpoint(train_time_interval=timedelta(0)), epochs=1)
    assert every_step == [f"last.ckpt {i}" for i in (1, 2, 3)] + [
        "epoch=0-step=4.ckpt 4",
        "last.ckpt 4",
    ]
    callback = RunCheckpoint(every_n_train_steps=10)
    assert not callback.should_save(step=9, elapsed=299)
    assert callback.should_save(step=9, elapsed=300)
    assert callback.should_save(step=10, elapsed=0)
    assert not RunCheckpoint(train_time_interval=None).should_save(step=10**6, elapsed=10**6)


def test_every_second_epoch_with_what_is_due_in_between(tmp_path: Path) -> None:
    rare = RunCheckpoint(every_n_epochs=2)
    assert _fit(tmp_path, rare, epochs=4) == [
        "epoch=1-step=8.ckpt 8",
        "last.ckpt 8",
        "epoch=3-step=16.ckpt 16",
        "last.ckpt 16",
    ]
    both = RunCheckpoint(every_n_train_steps=3, every_n_epochs=2)
    assert _fit(tmp_path, both) == [
        "last.ckpt 3",
        "last.ckpt 6",
        "epoch=1-step=8.ckpt 8",
        "last.ckpt 8",
    ]
    late = RunCheckpoint(every_n_train_steps=4, every_n_epochs=2)
    assert _fit(tmp_path, late)[0] == "last.ckpt 4"  # the epoch's end, which was not due by itself


def test_not_on_half_accumulated_gradients(tmp_path: Path) -> None:
    written = _fit(
        tmp_path, RunCheckpoint(every_n_train_steps=1), epochs=1, accumulate_grad_batches=2
    )
    assert written == ["last.ckpt 1", "epoch=0-step=2.ckpt 2", "last.ckpt 2"]

    class Late(RunCheckpoint):
        """Its time is up after the first half of the second step."""

        def on_train_batch_end(self, *args: Any) -> None:
            if args[-1] == 2:
                self._saved_at = -math.inf
            super().on_train_batch_end(*args)

    written = _fit(tmp_path / "late", Late(), epochs=1, accumulate_grad_batches=2)
    assert written == ["epoch=0-step=2.ckpt 2", "last.ckpt 2"]


def test_the_best_of_before_stays_the_best(tmp_path: Path) -> None:
    first = RunCheckpoint(monitor="loss", dirpath=tmp_path / "a")
    _fit(tmp_path, first)
    second = RunCheckpoint(monitor="loss", dirpath=tmp_path / "b")
    second.load_state_dict(first.state_dict())
    assert second.best_model_path == first.best_model_path
    assert second.best_k_models == first.best_k_models
    assert second.last_model_path == ""


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    class Explodes(Tiny):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.global_step == 3:
                self.layer.weight.data.fill_(torch.inf)

    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        callbacks=[RunCheckpoint(every_n_train_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    with pytest.raises(UserError, match=r"`layer\.weight` is not finite after step 4"):
        trainer.fit(Explodes(), DataLoader(torch.ones(4, 1)))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert torch.load(newest, weights_only=True)["global_step"] == 3


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="`every_n_train_steps` must be >= 1, got 0"):
        RunCheckpoint(every_n_train_steps=0)


def test_what_cannot_be_written_leaves_what_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"global_step": 1}, path)
    io.save_checkpoint({"global_step": 2}, path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert before.keys() == {"last.ckpt", "previous.ckpt"}

    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"global_step": lambda: 3}, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(
        UserError, match=r"No space left to write .*last\.ckpt; the checkpoints before it are whole"
    ):
        io.save_checkpoint({"global_step": 3}, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_without_hard_links_the_last_is_still_replaced(tmp_path: Path, monkeypatch: Any) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", unsupported)
    io = AtomicCheckpointIO()
    for step in (1, 2):
        io.save_checkpoint({"global_step": step}, tmp_path / "last.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"monitor": "loss", "save_top_k": 1, "mode": "max"},
        {"monitor": "loss", "save_top_k": 1, "mode": "min"},
        {"every_n_epochs": 3},
        {"every_n_epochs": 100},
        {"save_top_k": 0},
    ],
)
@pytest.mark.parametrize("stop", [{}, {"max_steps": 10}, {"callbacks": "early"}])
def test_a_run_that_ends_by_itself_leaves_its_final_weights(
    tmp_path: Path, options: dict[str, Any], stop: dict[str, Any]
) -> None:
    model, saved = Tiny(), RunCheckpoint(train_time_interval=None, **options)
    callbacks: list[Any] = [saved]
    if stop.pop("callbacks", None):
        callbacks.append(EarlyStopping("loss", patience=1, mode="min", min_delta=10.0))
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=5,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **stop,
    )
    trainer.fit(model, DataLoader(torch.ones(4, 1)))
    last = torch.load(saved.last_model_path, weights_only=True)
    assert last["global_step"] == trainer.global_step
    assert all(last["state_dict"][k].equal(v) for k, v in model.state_dict().items())
    again = Trainer(
        default_root_dir=tmp_path, max_epochs=7, logger=False, enable_progress_bar=False
    )
    again.fit(Tiny(), DataLoader(torch.ones(4, 1)), ckpt_path=saved.last_model_path)
    epochs_done = -(-trainer.global_step // 4)
    assert again.global_step == trainer.global_step + 4 * (7 - epochs_done)


def test_a_trial_writes_nothing(tmp_path: Path) -> None:
    assert _fit(tmp_path, RunCheckpoint(every_n_train_steps=1), fast_dev_run=True) == []


def test_without_a_last_checkpoint_none_is_written_at_the_end(tmp_path: Path) -> None:
    callback = RunCheckpoint(save_last=False, every_n_epochs=100)
    assert _fit(tmp_path, callback) == []
