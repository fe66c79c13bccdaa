"""Subclasses of PPSSL: layers, losses, optimizers and arguments of their own; loggers; monitors that are off."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from ppssl import (
    AIS,
    IADM,
    PPSSL,
    Anchor,
    AtomicCheckpointIO,
    BackgroundSwap,
    Distillation,
    FineTune,
    FolderDataModule,
    LossPlugin,
    LossTerm,
    MoCo,
    TrainingStep,
    load_encoder,
)
from ppssl.callbacks.equal_batches import EqualBatches
from ppssl.checkpointing.resume import ResumeState
from ppssl.losses.loss_plugin import weighted_sum
from ppssl.utils.errors import UserError
from save_at import SaveAt

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
TINY |= {"contrastive": MoCo(dim=8, queue_size=16), "seed": 0, "init_seed": 0}


class Rotations(PPSSL):
    """Predicts which of four rotations a view was given, beside the contrast; its own optimizer."""

    def __init__(self, share: float = 0.5, momentum: float = 0.8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.momentum = momentum

    def build(self, num_images: int) -> None:
        super().build(num_images)
        self.turn = nn.Linear(self.encoder.info.dim, 4)

    def loss_terms(self, step: TrainingStep) -> dict[str, LossTerm]:
        turns = torch.randint(4, (len(step.image),), device=step.image.device)
        turned = torch.stack(
            [image.rot90(int(k), (1, 2)) for image, k in zip(step.image, turns, strict=True)]
        )
        logits = self.turn(self.encoder(turned))
        loss = nn.functional.cross_entropy(logits, turns, reduction="none")
        return super().loss_terms(step) | {"turn": LossTerm(self.share * loss)}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=self.momentum)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(images), dim=1)


def _fit(model: Any, images: Path, folder: Path, steps: int, **kwargs: Any) -> Trainer:
    data = FolderDataModule(images, image_size=32, batch_size=8, num_workers=0, seed=0)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    resume = kwargs.pop("resume", None)
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=steps,
        log_every_n_steps=1,
        plugins=[AtomicCheckpointIO()],
        **options | kwargs,
    )
    trainer.fit(model, data, ckpt_path=resume)
    return trainer


def _assert_same(first: Any, second: Any) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def _rotations() -> Rotations:
    torch.manual_seed(0)
    return Rotations(share=0.25, **TINY, plugins={"anchor": Anchor(3.0, image_size=None)})


def test_it_trains_and_is_saved_loaded_and_resumed(image_folder: Path, tmp_path: Path) -> None:
    straight, resumed, middle = _rotations(), _rotations(), tmp_path / "middle.ckpt"
    trainer = _fit(straight, image_folder, tmp_path, 4, callbacks=[SaveAt(2, middle)])
    assert {"train/loss_turn", "train/loss_anchor"} <= trainer.logged_metrics.keys()
    assert trainer.optimizers[0].defaults["momentum"] == 0.8
    _fit(resumed, image_folder, tmp_path, 4, resume=middle)
    _assert_same(resumed, straight)
    trainer.save_checkpoint(path := tmp_path / "end.ckpt")
    torch.load(path, weights_only=True)
    loaded = Rotations.load_from_checkpoint(path).eval()
    assert (loaded.share, loaded.momentum) == (0.25, 0.8)
    _assert_same(loaded, straight)
    assert type(PPSSL.load_from_checkpoint(path)) is Rotations
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(loaded.encoder(images), load_encoder(path)(images))


def test_its_layers_are_made_once(image_folder: Path, tmp_path: Path) -> None:
    model = _rotations()
    _fit(model, image_folder, tmp_path, 1).save_checkpoint(path := tmp_path / "one.ckpt")
    loaded = Rotations.load_from_checkpoint(path)
    for again in (model, loaded):  # a run that goes on from weights; it makes no step
        weight = again.turn.weight
        _fit(again, image_folder, tmp_path, 0)
        assert again.turn.weight is weight
    assert loaded.turn.weight.equal(model.turn.weight)


def test_its_own_term_is_added_to_the_loss() -> None:
    batch = {"views": [torch.randn(6, 3, 16, 16) for _ in range(2)], "index": torch.arange(6)}
    model = _rotations()
    model.build(20)
    torch.manual_seed(1)
    loss, logs = model.losses(batch, seed=0, progress=0.5)
    total = logs["loss_contrastive"] + 3 * logs["loss_anchor"] + logs["loss_turn"]
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    loss.backward()
    assert model.turn.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_the_weighted_sum() -> None:
    terms = {
        "a": LossTerm(torch.tensor([1.0, 3.0]), {"x": torch.tensor(7.0)}),
        "b": LossTerm(torch.tensor(5.0)),
        "c": LossTerm(torch.tensor(9.0), logged=False),
    }
    total, logs = weighted_sum(terms, {"a": 0.5, "c": 0.0})
    assert float(total) == 0.5 * 2 + 5
    assert {name: float(v) for name, v in logs.items()} == {"a_x": 7, "loss_a": 2, "loss_b": 5}
    assert weighted_sum({}, {}) == (0.0, {})


# -- loggers ----------------------------------------------------------------------------------------------------------


class Kept(Logger):
    """Keeps what it is given."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.params = params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing."""


def test_loggers_show_the_arguments_of_model_and_data(image_folder: Path, tmp_path: Path) -> None:
    kept = Kept()
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board"), kept]
    _fit(_rotations(), image_folder, tmp_path, 1, logger=loggers)
    model, data = kept.params["model"], kept.params["data"]
    assert model["share"] == 0.25
    assert model["backbone_kwargs"] == {"width": 4}
    assert model["contrastive"]["queue_size"] == 16
    assert model["plugins"]["anchor"]["loss_weight"] == 3.0
    assert (data["class_path"], data["image_size"]) == ("ppssl.FolderDataModule", 32)
    (written,) = (tmp_path / "csv").rglob("hparams.yaml")
    assert yaml.safe_load(written.read_text()) == kept.params
    (events,) = (tmp_path / "board").rglob("events.*")
    accumulator = EventAccumulator(str(events.parent)).Reload()
    content = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model/contrastive/queue_size" in content
    assert b"data/image_size" in content


def test_so_do_those_of_classifiers_and_what_no_file_holds(
    image_folder: Path, tmp_path: Path
) -> None:
    kept = Kept()
    classifier = FineTune(nn.Conv2d(3, 4, 8, stride=8), label_smoothing=0.2)
    _fit(classifier, image_folder, tmp_path, 1, logger=kept)
    assert kept.params["model"]["label_smoothing"] == 0.2
    assert kept.params["model"]["backbone"] == "Conv2d"


# -- monitors ---------------------------------------------------------------------------------------------------------


def test_monitors_can_be_switched_off(
    image_folder: Path, tmp_path: Path, clip_folder: Path, banks: Path
) -> None:
    """With each plugin of the package, what it needs to train stays."""
    texts, clip = tmp_path / "corpus.txt", str(clip_folder)
    texts.write_text("".join(f"a thing of kind {k}\n" for k in range(9)))

    def model(monitors: bool = False) -> PPSSL:
        plugins: dict[str, LossPlugin] = {
            "iadm": IADM(every=1, start=0, full=0),
            "anchor": Anchor(image_size=24, window=0.5),
            "ais": AIS(str(texts), teacher=clip),
            "distillation": Distillation(clip),
            "background": BackgroundSwap(),
        }
        return PPSSL(**TINY, plugins=plugins, monitors=monitors)

    straight, resumed, path = model(), model(), tmp_path / "middle.ckpt"
    trainer = _fit(straight, image_folder, tmp_path, 4, callbacks=[SaveAt(2, path)])
    own = [c for c in trainer.callbacks if type(c).__module__.startswith("ppssl.")]
    assert [type(callback) for callback in own] == [EqualBatches, ResumeState]
    assert not [n for n in trainer.callback_metrics if n.startswith("val/") or "wait" in n]
    _fit(resumed, image_folder, tmp_path, 4, resume=path)
    _assert_same(resumed, straight)
    monitored = model(True)
    trainer = _fit(monitored, image_folder, tmp_path, 4)
    assert len([c for c in trainer.callbacks if type(c).__module__.startswith("ppssl.")]) == 8
    _assert_same(monitored, straight)
    assert PPSSL.load_from_checkpoint(path).monitors is False


# -- plugins ----------------------------------------------------------------------------------------------------------


def test_a_plugin_needs_forward_alone() -> None:
    class Short(LossPlugin):
        def forward(self, step: TrainingStep) -> LossTerm:
            return LossTerm(step.embedding.square().mean(dim=1))

    optional = {
        "build",
        "callbacks",
        "config",
        "data_requests",
        "edit_batch",
        "needs_image_gradient",
    }
    optional |= {"on_fit_start", "prepare", "restore_sizes", "sizes", "weight"}
    methods = inspect.getmembers(LossPlugin, inspect.isfunction)
    own = {name for name, _ in methods if name not in dir(nn.Module)}
    assert own == optional  # `attention` is IADM's alone
    model = PPSSL(**TINY, plugins={"short": Short()})
    model.build(20)
    batch = {"views": [torch.randn(4, 3, 16, 16) for _ in range(2)], "index": torch.arange(4)}
    loss, logs = model.losses(batch, seed=0, progress=0.5)
    assert loss.item() == pytest.approx(
        (logs["loss_contrastive"] + logs["loss_short"]).item(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (torch.ones(()), "must return a dict of terms by name, got a `Tensor`"),
        ({"contrastive": LossTerm(torch.ones(()))}, "`contrastive` is the name of L_con"),
        ({"mine": torch.ones(())}, "The loss `mine` must be a `LossTerm` .* got a `Tensor`"),
        ({"mine": LossTerm(0.5)}, "The loss `mine` must be a `LossTerm` .* got one of a `float`"),  # type: ignore[arg-type]
    ],
)
def test_loss_terms_that_are_none_are_refused(terms: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weighted_sum(terms, {})
