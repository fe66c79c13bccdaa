"""A loss that is not finite ends the run, names its term and images, and leaves nothing of itself behind."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision

from ppssl import PPSSL, FolderDataModule, LossPlugin, LossTerm, TrainingStep, UserError
from ppssl.losses.contrastive import MoCo
from ppssl.utils.finite import LossHistory, check_parameters
from ppssl.utils.randomness import generator


class Breaks(LossPlugin):
    """Is NaN for one image, from a step on."""

    def __init__(self, image: int = 0, weight_at: float = 1.0) -> None:
        super().__init__()
        self.image, self.weight_at = image, weight_at

    def forward(self, step: TrainingStep) -> LossTerm:
        value = step.embedding.mean(dim=1)
        broken = (step.batch["index"] == self.image) & (step.progress >= 0.5)
        return LossTerm(torch.where(broken, torch.nan, value))

    def weight(self, progress: float) -> float:
        return self.weight_at


class Watch(Callback):
    """The state after each step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        if not self.states:  # when the queue is filled
            self.on_train_batch_end(*args)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.states.append({k: v.clone() for k, v in pl_module.state_dict().items()})


class Apart(Watch):
    """Moves the key's encoder away first: were they equal, a step of its own would not be seen."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for parameter in pl_module.contrastive.key_encoder.parameters():
            parameter.data.add_(0.01)
        super().on_train_start(trainer, pl_module)


def _fit(
    images: Path,
    *,
    plugins: Any = None,
    watch: Watch | None = None,
    precision: Any = None,
    **trainer: Any,
) -> PPSSL:
    torch.manual_seed(0)
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        lr=0.05,
        contrastive=MoCo(dim=8, momentum=0.5),
        plugins=plugins,
        seed=3,
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    data = FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0, seed=3)
    Trainer(
        max_epochs=2,
        enable_checkpointing=False,
        limit_val_batches=0,
        callbacks=[watch] if watch else None,
        plugins=precision,
        accelerator="cpu",
        **quiet | trainer,
    ).fit(model, data)
    return model


@pytest.mark.parametrize("every", [1, 2, 50])
def test_the_run_stops_and_says_where(image_folder: Path, every: int) -> None:
    """At the next logged step, or at the end of the epoch; what is named is the first step."""
    watch = Watch()
    with pytest.raises(UserError) as caught:
        _fit(
            image_folder,
            plugins={"breaks": Breaks(image=5)},
            watch=watch,
            log_every_n_steps=every,
        )
    order = generator(3, "order", 1).permutation(24).reshape(3, 8)  # of the second epoch
    batch = next(i for i, images in enumerate(order) if 5 in images)
    message = str(caught.value)
    first = f"The loss is nan at step {3 + batch}, epoch 1: not finite is `breaks` (1 of 8 values)."
    assert first in message
    assert str(order[batch].tolist()) in message
    if every == 1:
        assert len(watch.states) == 1 + 3 + batch  # nothing of the step is kept


def test_a_loss_that_is_not_finite_gets_into_no_checkpoint(
    image_folder: Path, tmp_path: Path
) -> None:
    class Save(Callback):
        """Saves after each step."""

        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    watch: Any = Save()
    with pytest.raises(UserError, match="The loss is nan at step"):
        _fit(image_folder, plugins={"breaks": Breaks(image=5)}, watch=watch, log_every_n_steps=50)
    saved = [torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*.ckpt"))]
    assert len(saved) >= 3
    for checkpoint in saved:
        tensors = checkpoint["state_dict"].values()
        assert all(t.isfinite().all() for t in tensors if t.is_floating_point())


def test_a_weight_of_zero_does_not_hide_it(image_folder: Path) -> None:
    with pytest.raises(UserError, match="not finite is `breaks`"):
        _fit(image_folder, plugins={"breaks": Breaks(weight_at=0.0)})


def test_an_infinite_term_is_named_beside_finite_ones() -> None:
    terms = {"a": torch.tensor([1.0, -torch.inf, torch.inf]), "b": torch.tensor(2.0)}
    history, index = LossHistory(), torch.arange(3)
    history.add(torch.tensor(3.0), terms, index, step=6, epoch=2)  # only the total is looked at
    history.check()
    for step, loss in ((7, 1.0), (8, torch.inf), (9, torch.nan)):
        history.add(torch.tensor(loss), terms, index + step, step=step, epoch=2)
    message = r"inf at step 8, epoch 2: not finite is `a` \(2 of 3 values\)\..*\[8, 9, 10\]"
    with pytest.raises(UserError, match=message):
        history.check()
    history.check()  # what was reported is forgotten


def test_a_history_that_nobody_checks_checks_itself() -> None:
    history, one = LossHistory(), torch.arange(1)
    history.add(torch.tensor(torch.nan), {}, one, step=0, epoch=0)
    for step in range(1, 999):
        history.add(torch.tensor(0.0), {}, one, step=step, epoch=0)
    with pytest.raises(UserError, match="nan at step 0"):
        history.add(torch.tensor(0.0), {}, one, step=999, epoch=0)


def test_weights_that_are_not_finite_are_named() -> None:
    module = torch.nn.BatchNorm1d(2)
    check_parameters(module, 1)
    module.running_mean[1] = torch.nan
    with pytest.raises(UserError, match="`running_mean` is not finite after step 1"):
        check_parameters(module, 1)


def test_a_step_that_loss_scaling_skips_moves_nothing_but_the_queue(image_folder: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, backoff_factor=2.0**-60)
    watch = Apart()
    fp16 = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    _fit(image_folder, watch=watch, precision=fp16, gradient_clip_val=1.0)
    start, skipped, stepped = watch.states[:3]
    weights = [
        name
        for name in start
        if "queue" not in name and "running" not in name and "batches" not in name
    ]
    assert all(start[name].equal(skipped[name]) for name in weights)
    for part in ("encoder.", "contrastive.key_encoder."):
        assert any(not skipped[n].equal(stepped[n]) for n in weights if n.startswith(part))
    positions = [int(state["contrastive.queue.position"]) for state in watch.states]
    size = len(start["contrastive.queue.keys"])
    assert [(b - a) % size for a, b in itertools.pairwise(positions)] == [8] * 6
