"""Further views of a batch (multi-crop): queries of each base, and nothing that a plugin would notice."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from safetensors.torch import save_file
from timm import create_model
from torch import Tensor

from bases import BASES, TINY, VIT, assert_same_gradients, batch_of, make
from ppssl import (
    AIS,
    IADM,
    PPSSL,
    Anchor,
    ContrastiveResult,
    Distillation,
    FolderDataModule,
    MoCo,
    MoCoV2Augmentation,
    TimmTeacher,
    UserError,
)
from reference.contrastive import multi_crop_loops
from save_at import SaveAt

over_bases = pytest.mark.parametrize("name", BASES)


def _branches(name: str, encoder: Any, base: Any, views: list[Tensor]) -> tuple[Any, Any]:
    """Queries of all views and targets of the global views that have one, of any length."""
    if name == "SimCLR":
        queries = [base.head(encoder(view)) for view in views]
        return queries, {0: queries[0], 1: queries[1]}
    last = base.predictor if name in ("BYOL", "MoCoV3") else (lambda z: z)
    queries = [last(base.head(encoder(view))) for view in views]
    targets = {t: base.key_head(base.key_encoder(views[t])) for t in (0, 1)}
    return queries, {1: targets[1]} if name == "MoCo" else targets


def _moved(name: str, **options: Any) -> tuple[Any, Any]:
    """An encoder and a base whose momentum copies have moved away, with keys of images of the batch in its queue."""
    encoder, base = make(name, **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, p in base.named_parameters():
            if key.startswith("key_"):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    if name == "MoCo":
        keys = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator))
        base.queue.enqueue(keys, torch.tensor([3, 8, 20]))
    return encoder, base


@pytest.mark.parametrize("further", [(), (16,), (12, 20)])
@over_bases
def test_loss_and_gradient_are_the_mean_over_pairs(name: str, further: tuple[int, ...]) -> None:
    encoder, base = _moved(name, per_image=True)
    trained = [p for part in (encoder, base) for p in part.parameters() if p.requires_grad]
    index = [5, 3, 8, 3]
    batch = batch_of(index, further=further)
    _, loss = base.over_views(encoder, batch, seed=0)
    queries, targets = _branches(name, encoder, base, batch["views"])
    queue = (base.queue.keys, base.queue.index.tolist()) if name == "MoCo" else None
    temperature = getattr(base, "temperature", 1.0)
    expected = multi_crop_loops(name, queries, targets, index, temperature, queue)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(loss, expected, trained)


@over_bases
def test_two_views_are_the_loss_itself(name: str) -> None:
    encoder, base = make(name)
    batch = batch_of([3, 30, 31, 7])
    result, loss = base.over_views(encoder, batch, seed=0)
    assert loss is result.loss


@over_bases
def test_what_plugins_are_given_is_of_the_global_views(name: str) -> None:
    batch = batch_of([3, 30, 31, 7], further=(12, 12))
    encoder, base = make(name)
    pair = base(encoder, batch | {"views": batch["views"][:2]}, seed=0)
    encoder, base = make(name)
    result, loss = base.over_views(encoder, batch, seed=0)
    for part in ("loss", "z", "key"):
        assert getattr(result, part).equal(getattr(pair, part))
    p = pair.features.embedding
    assert result.features.embedding.equal(p)
    assert not loss.equal(result.loss)
    assert result.contrast(p).equal(pair.contrast(p))


@pytest.mark.parametrize("half", [False, True])
@over_bases
def test_the_contract_holds_for_further_views(name: str, half: bool) -> None:
    encoder, base = make(name)
    batch = batch_of([3, 30, 31, 7], further=(12,))
    local = batch["views"][2].requires_grad_()
    before = copy.deepcopy(base.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        result, of_all = base.over_views(encoder, batch, seed=0)
        loss = 2 * of_all - result.loss
    assert (loss.shape, loss.dtype) == ((4,), torch.float32)
    of_all.mean().backward()
    assert local.grad is not None
    assert local.grad.flatten(1).norm(dim=1).min() > 0
    targets = [p for key, p in base.named_parameters() if key.startswith("key_")]
    assert all(p.grad is None for p in targets)
    changed = {key for key, value in base.state_dict().items() if not value.equal(before[key])}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert {key.rpartition(".")[2] for key in changed} <= statistics


class Pair(MoCo):
    """Knows nothing of further views, as bases from before they came."""

    def forward(self, encoder: Any, batch: Any, *, seed: int) -> ContrastiveResult:
        _, _ = batch["views"]
        return replace(super().forward(encoder, batch, seed=seed), further=None)


def test_a_base_of_two_views_says_so() -> None:
    encoder, _ = make("MoCo")
    base = Pair(dim=8, queue_size=16, prefill="random")
    base.build(encoder, num_images=40)
    result, loss = base.over_views(encoder, batch_of([3, 30]), seed=0)
    assert loss is result.loss
    with pytest.raises(UserError, match=r"`Pair` takes two views, and this batch has 4: set `fu"):
        base.over_views(encoder, batch_of([3, 30], further=(12, 12)), seed=0)


# -- training -----------------------------------------------------------------------------------------------------


class _Look(SaveAt):
    """What the first step logs."""

    def __init__(self) -> None:
        self.logged: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.logged = self.logged or dict(trainer.callback_metrics)


def _fit(
    name: str, images: Path, out: Path, *, local: Any = None, plugins: Any = None, **options: Any
) -> PPSSL:
    torch.manual_seed(0)
    encoder = options.pop("encoder", TINY)
    model = PPSSL(**encoder, contrastive=BASES[name](), lr=0.01, plugins=plugins)
    small: dict[str, Any] = {"image_size": 32, "batch_size": 8, "num_workers": 0, "seed": 0}
    small["augmentation"] = MoCoV2Augmentation(**local) if isinstance(local, dict) else local
    small["augment_on"] = options.pop("augment_on", "workers")
    settings: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 2, "logger": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "limit_val_batches": 0, "log_every_n_steps": 1}
    resumed = options.pop("ckpt_path", None)
    trainer = Trainer(default_root_dir=out, num_sanity_val_steps=0, **settings | options)
    trainer.fit(model, FolderDataModule(str(images), **small), ckpt_path=resumed)
    return model


LOCAL = {"local_crops": 2, "local_size": 16, "local_scale": (0.1, 0.4)}


@over_bases
def test_the_terms_of_all_plugins_are_those_without_further_views(
    name: str, image_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    weights = tmp_path / "model.safetensors"
    save_file(create_model("test_resnet", num_classes=0).state_dict(), weights)
    teacher = TimmTeacher("test_resnet", pretrained=str(weights), image_size=32)
    runs = []
    for local in (None, LOCAL):
        plugins = {
            "ais": AIS("synthetic-birds", teacher="synthetic-clip", online=True),
            "iadm": IADM(start=0.0, full=0.0, debias=True, use="both", every=1, target="loss"),
            "anchor": Anchor(),
            "distillation": Distillation(teacher),
        }
        look = _Look()
        options: dict[str, Any] = {"plugins": plugins, "callbacks": [look], "max_steps": 1}
        _fit(name, image_folder, tmp_path, local=local, **options)
        runs.append(look.logged)
    names = {f"train/loss_{plugin}" for plugin in plugins}
    assert names < runs[0].keys() == runs[1].keys()
    for key in runs[0]:
        changes = key in ("train/loss", "train/loss_contrastive") or key.endswith("_second")
        assert changes or runs[0][key].equal(runs[1][key]), key
    assert not runs[0]["train/loss_contrastive"].equal(runs[1]["train/loss_contrastive"])


@pytest.mark.parametrize(("name", "place"), [("MoCo", "workers"), ("SimCLR", "device")])
def test_a_resumed_run_is_bitwise_the_run_without_a_break(
    name: str, place: str, image_folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "middle.ckpt"
    options: dict[str, Any] = {"local": LOCAL, "augment_on": place}
    callbacks = [SaveAt(2, saved)]
    straight = _fit(name, image_folder, tmp_path, callbacks=callbacks, **options).state_dict()
    resumed = _fit(name, image_folder, tmp_path, ckpt_path=str(saved), **options).state_dict()
    assert all(value.equal(resumed[key]) for key, value in straight.items())
    plain = _fit(name, image_folder, tmp_path, augment_on=place).state_dict()
    assert not all(value.equal(plain[key]) for key, value in straight.items())


def _own(image: Any) -> list[Tensor]:
    return [torch.rand(3, 32, 32), torch.rand(3, 32, 32), torch.rand(3, 16, 16)]


@pytest.mark.parametrize("local", [LOCAL, _own])
def test_an_encoder_of_one_size_says_so_or_takes_any(
    local: Any, image_folder: Path, tmp_path: Path
) -> None:
    begun: list[Any] = []
    begin = LambdaCallback(on_fit_start=lambda *_: begun.append(True))
    message = r"`vit_tiny_patch16_224` does not take images of 16 pixels \(.*\): make further views"
    with pytest.raises(UserError, match=f"{message} as large as the others .*dynamic_img_size"):
        _fit("MoCoV3", image_folder, tmp_path, local=local, encoder=VIT, callbacks=[begin])
    assert bool(begun) == callable(local)  # the sizes of a function show in the first batch
    any_size = VIT | {"backbone_kwargs": VIT["backbone_kwargs"] | {"dynamic_img_size": True}}
    model = _fit("MoCoV3", image_folder, tmp_path, local=local, encoder=any_size, max_steps=1)
    assert model.global_step == 1
