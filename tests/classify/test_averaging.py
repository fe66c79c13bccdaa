"""Moving average of the weights: the rule, other tensors than weights, host reads, resuming."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from operations import Operations
from ppssl import FolderDataModule
from ppssl.classify.averaging import MovingAverage, decay_of_update, update_average
from ppssl.classify.finetune import FineTune

SMALL: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


def _net(seed: int, steps: int = 0) -> nn.Module:
    """Half and single precision, batch norm with its counter, after batches of another mean."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for _ in range(steps):
        net(torch.randn(8, 3) + seed)
    net[2].half()
    return net


def test_average_is_that_of_loops() -> None:
    average, model = _net(0), _net(1, steps=3)
    expected = {
        name: 0.7 * value + 0.3 * model.state_dict()[name]
        for name, value in average.state_dict().items()
    }
    expected["1.num_batches_tracked"] = torch.tensor(3)  # copied
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update_average(average, model, 0.7)
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
        assert before[name].equal(model.state_dict()[name])


def test_average_is_torchs() -> None:
    """`AveragedModel` with an average function by the same rule."""

    def rule(average: torch.Tensor, current: torch.Tensor, updates: Any) -> torch.Tensor:
        d = min(0.9, (1 + float(updates)) / (10 + float(updates)))
        return d * average + (1 - d) * current

    theirs, ours = AveragedModel(_net(0).float(), avg_fn=rule, use_buffers=True), _net(0).float()
    for step in range(20):
        model = _net(step + 5).float()
        theirs.update_parameters(model)
        update_average(ours, model, decay_of_update(step, 0.9))
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_decay_grows_from_the_weights_themselves_to_its_limit() -> None:
    assert [decay_of_update(n, 0.9) for n in (0, 1, 2)] == pytest.approx([0, 2 / 11, 3 / 12])
    assert decay_of_update(80, 0.9) == decay_of_update(10_000, 0.9) == 0.9


def test_updates_read_no_value_and_take_one_operation_for_all_weights() -> None:
    average, model = _net(0).float(), _net(1).float()
    with Operations() as operations:
        update_average(average, model, 0.5)
    assert operations.counts["_foreach_lerp_"] == 1
    assert set(operations.counts) <= {"detach", "_foreach_lerp_", "copy_"}


class Watched(MovingAverage):
    """The operators that it calls after each batch."""

    def __init__(self, decay: float) -> None:
        super().__init__(decay)
        self.counts: list[Counter[str]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        with Operations() as operations:
            super().on_train_batch_end(*args)
        self.counts.append(operations.counts)


def _fit(images: Path, folder: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:
    data = FolderDataModule(
        str(images), image_size=32, batch_size=6, num_workers=0, val_fraction=0.25, seed=0
    )
    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 2, "limit_val_batches": 0}
    trainer = Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options | {"enable_checkpointing": False} | kwargs,
    )
    trainer.fit(FineTune(**SMALL, lr=0.01), data)
    return trainer


def test_one_update_for_each_optimizer_step(image_folder: Path, tmp_path: Path) -> None:
    """Not after batches whose gradients are accumulated, and without any host read."""
    watched = Watched(0.9)
    trainer = _fit(image_folder, tmp_path, watched, accumulate_grad_batches=2)
    assert [bool(counts["_foreach_lerp_"]) for counts in watched.counts] == [0, 1, 1] * 2
    assert watched.state_dict() == {"latest_update_step": trainer.global_step}
    assert not any(counts["_local_scalar_dense"] for counts in watched.counts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_updates_on_a_gpu_wait_for_nothing(image_folder: Path, tmp_path: Path) -> None:
    class Strict(MovingAverage):
        updates = 0

        def on_train_batch_end(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")
            super().on_train_batch_end(*args)
            torch.cuda.set_sync_debug_mode("default")
            self.updates += 1

    strict = Strict(0.9)
    _fit(image_folder, tmp_path, strict, accelerator="gpu", devices=1)
    assert strict.updates == 6


def test_error() -> None:
    with pytest.raises(ValueError, match=r"`decay` must be in \(0, 1\), got 1.0"):
        MovingAverage(1.0)
