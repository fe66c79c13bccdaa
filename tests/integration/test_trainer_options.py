"""Options and callbacks of Lightning's Trainer: each works, or is one line that says why not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

from command_line import error_line, fit_arguments
from ppssl import IADM, PPSSL, FineTune, FolderDataModule, LinearProbe, MoCo
from ppssl.cli.main import main
from save_at import SaveAt

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
RECIPES = ["pretrain", *(pytest.param(r, marks=pytest.mark.slow) for r in ("finetune", "linear"))]
"""With classifiers each option takes a minute in all: they are among the slow tests."""


def _callback(name: str, **init_args: Any) -> str:
    spec = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": init_args}
    return f"--trainer.callbacks={json.dumps([spec])}"


WORKS: dict[str, list[str]] = {
    "overfit_batches": ["--trainer.overfit_batches=1"],
    "time within epochs": ["--trainer.max_time=00:00:10:00"],
    "steps": ["--trainer.max_epochs=-1", "--trainer.max_steps=3"],
    "swa and clipping": [
        _callback("StochasticWeightAveraging", swa_lrs=0.01),
        "--trainer.gradient_clip_val=1.0",
    ],
    "ema": [_callback("EMAWeightAveraging", decay=0.9)],
    "average": [_callback("WeightAveraging")],
    "no checkpoints": ["--trainer.enable_checkpointing=false"],
    "one image": ["--data.batch_size=1", "--trainer.limit_train_batches=3"],
    "trial": ["--trainer.fast_dev_run=2"],
    "no training": ["--trainer.max_epochs=0"],
    "clipping by 0": ["--trainer.gradient_clip_val=0"],
    "clipping by value": [
        "--trainer.gradient_clip_val=0.5",
        "--trainer.gradient_clip_algorithm=value",
    ],
    "reload": ["--trainer.reload_dataloaders_every_n_epochs=1"],
    "validation by steps": [
        "--trainer.val_check_interval=1",
        "--trainer.check_val_every_n_epoch=null",
    ],
    "accumulation by epoch": [_callback("GradientAccumulationScheduler", scheduling={"1": 2})],
    "weights only": ["--checkpoint.save_weights_only=true"],
}
ONE_LINE: dict[str, tuple[list[str], str]] = {
    "time without epochs": (
        ["--trainer.max_epochs=null", "--trainer.max_time=00:00:00:03"],
        "`trainer.max_epochs` -1 is not supported without `trainer.max_steps`",
    ),
    "backbone finetuning": (
        [_callback("BackboneFinetuning")],
        "`BackboneFinetuning` is not supported.*`model.freeze_epochs`",
    ),
    "late validation": (
        ["--trainer.val_check_interval=100"],
        r"`trainer.val_check_interval` \(100\) must be less than or equal to the number",
    ),
    "unknown value to stop by": (
        [_callback("EarlyStopping", monitor="val/nothing")],
        "A monitored value does not exist: .*`val/nothing`",
    ),
    "unknown value to save by": (["--checkpoint.monitor=val/nothing"], "'val/nothing'"),
    "too small a part": (["--trainer.overfit_batches=0.01"], "0.01 . . < 1"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("trainer-options")
    rng = np.random.default_rng(0)
    for label in range(3):
        folder = root / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def _arguments(recipe: str, images: Path, out: Path, options: list[str]) -> list[str]:
    more = ["--trainer.logger=false", "--trainer.max_epochs=2", *options]
    arguments = fit_arguments(images, out, *more)
    arguments[2] = f"ppssl:folder/{recipe}"
    return arguments + ([] if recipe == "pretrain" else ["--model.backbone=resnet_small"])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("option", WORKS)
def test_it_works(option: str, recipe: str, images: Path, tmp_path: Path) -> None:
    assert main(_arguments(recipe, images, tmp_path, WORKS[option])) == 0
    saves = option not in ("no checkpoints", "trial", "no training")
    assert bool(list(tmp_path.rglob("last.ckpt"))) == saves


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("option", ONE_LINE)
def test_it_is_one_line(
    option: str, recipe: str, images: Path, tmp_path: Path, capsys: Any
) -> None:
    options, message = ONE_LINE[option]
    assert main(_arguments(recipe, images, tmp_path, options)) == 2
    line = error_line(capsys)
    assert re.search(message, line), line


def test_batch_norm_of_one_value_is_one_line(images: Path, tmp_path: Path, capsys: Any) -> None:
    options = ["--data.batch_size=1", "--model.backbone=resnet18", "--model.backbone_kwargs=null"]
    assert main(_arguments("pretrain", images, tmp_path, options)) == 2
    assert "`data.batch_size` to 2 or more" in error_line(capsys)


class Weights(Callback):
    """The model's weights after each step and the images that were used."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.images: list[list[int]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append({k: v.detach().clone() for k, v in pl_module.named_parameters()})
        self.images.append(batch["index"].tolist())


def _fit(model: Any, images: Path, folder: Path, *callbacks: Callback, **options: Any) -> Weights:
    weights = Weights()
    trainer = Trainer(
        **{"max_epochs": 4} | options,
        callbacks=[*callbacks, weights],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, FolderDataModule(images, image_size=32, batch_size=8, num_workers=0))
    return weights


@pytest.mark.parametrize("make", [PPSSL, FineTune, LinearProbe])
def test_the_average_is_of_all_weights(make: Any, images: Path, tmp_path: Path) -> None:
    """Heads, which are made in setup, too."""
    model = make(**TINY, lr=0.1)
    weights = _fit(model, images, tmp_path, EMAWeightAveraging(decay=0.5), max_epochs=1)
    expected = weights.seen[0]
    for later in weights.seen[1:]:
        expected = {k: 0.5 * v + 0.5 * later[k] for k, v in expected.items()}
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], msg=name)


def test_an_average_is_of_weights_alone(images: Path, tmp_path: Path) -> None:
    """Not of keys, nor of the running mean map, which grows in the first step; they are those of the last step."""
    states, saved = [], tmp_path / "average.ckpt"
    for callbacks in ([], [EMAWeightAveraging(decay=0.5), SaveAt(2, saved)]):
        plugins = {"iadm": IADM(start=0.0, full=0.0, every=1, debias=True)}
        model = PPSSL(**TINY, contrastive=MoCo(dim=8), plugins=plugins, lr=0.1, init_seed=0)
        _fit(model, images, tmp_path, *callbacks, max_epochs=1)
        states.append(model.state_dict())
    kept = {key for key in states[0] if ".queue." in key or key.endswith("mean_map")}
    assert len(kept) == 5
    different = {key for key, value in states[0].items() if not value.equal(states[1][key])}
    assert different
    assert not different & kept
    loaded = PPSSL.load_from_checkpoint(saved)
    assert loaded.contrastive.needs_prefill()  # its keys were of other weights
    _fit(loaded, images, tmp_path, max_epochs=1)
    norms = loaded.contrastive.queue.keys.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("make", [PPSSL, FineTune])
def test_stochastic_weight_averaging_is_of_all_weights(
    make: Any, images: Path, tmp_path: Path
) -> None:
    swa = StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=2)
    model = make(**TINY, lr=0.1)
    weights = _fit(model, images, tmp_path, swa)
    steps = len(weights.seen) // 5  # the last epoch is for batch norm
    starts = [weights.seen[epoch * steps - 1] for epoch in (1, 2, 3)]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, value in trained.items():
        mean = torch.stack([start[name] for start in starts]).mean(0)
        torch.testing.assert_close(value.detach(), mean, msg=name, atol=1e-5, rtol=1e-3)


def test_overfitting_uses_the_same_images_and_views(images: Path, tmp_path: Path) -> None:
    weights = _fit(PPSSL(**TINY, lr=0.1), images, tmp_path, overfit_batches=2)
    assert len(weights.images) == 8
    assert weights.images[:2] * 4 == weights.images


def test_clipping_by_0_is_none(images: Path, tmp_path: Path) -> None:
    def final(**options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return _fit(PPSSL(**TINY, lr=0.1, seed=0, init_seed=0), images, tmp_path, **options).seen[
            -1
        ]

    without, by_0 = final(), final(gradient_clip_val=0)
    assert all(torch.equal(value, by_0[name]) for name, value in without.items())
