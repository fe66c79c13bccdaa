"""The contract of contrastive objectives (``ppssl.ContrastiveObjective``), tested over all of them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from timm import create_model
from torch import Tensor

from bases import BASES, SYMMETRIC, TINY, VIT, batch_of, make
from ppssl import (
    AIS,
    IADM,
    PPSSL,
    Anchor,
    Distillation,
    FolderDataModule,
    LossPlugin,
    LossTerm,
    TimmTeacher,
    TrainingStep,
    UserError,
)
from save_at import SaveAt

over_bases = pytest.mark.parametrize("name", BASES)


def _swapped(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"views": batch["views"][::-1]}


def _trained(encoder: Any, base: Any) -> list[Tensor]:
    return [p for part in (encoder, base) for p in part.parameters() if p.requires_grad]


# -- what a step gives to plugins ---------------------------------------------------------------------------------


@over_bases
@pytest.mark.parametrize("half", [False, True])
def test_result(name: str, half: bool) -> None:
    encoder, base = make(name)
    batch = batch_of([3, 30, 31, 7])
    image = batch["views"][0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        result = base(encoder, batch, seed=0)
        again = result.contrast(result.features.embedding)
    assert result.features.embedding.dtype == (torch.bfloat16 if half else torch.float32)
    assert (again.shape, again.dtype) == ((4,), torch.float32)
    assert (result.loss.shape, result.loss.dtype) == ((4,), torch.float32)
    for z in (result.z, result.key):
        assert (z.shape, z.dtype) == ((4, 8), torch.float32)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    assert result.z.requires_grad
    assert not result.key.requires_grad
    assert result.features.embedding.shape == (4, encoder.info.dim)
    assert result.features.map.shape[:2] == (4, encoder.info.channels)
    for values in (result.loss, (result.z * result.key).sum(dim=1)):
        for tensor in (image, result.features.map):
            (gradient,) = torch.autograd.grad(values.sum(), tensor, retain_graph=True)
            assert gradient.isfinite().all()
            assert gradient.flatten(1).norm(dim=1).min() > 0


@over_bases
@pytest.mark.parametrize("per_image", [False, True])
def test_contrast_is_the_querys_part_of_the_loss(name: str, per_image: bool) -> None:
    encoder, base = make(name, per_image=per_image)
    batch = batch_of([3, 30, 31, 7])
    result = base(encoder, batch, seed=0)
    expected = result.contrast(result.features.embedding)
    if name in SYMMETRIC:
        other = base(encoder, _swapped(batch), seed=0)
        torch.testing.assert_close(other.loss, result.loss)
        expected = expected + other.contrast(other.features.embedding)
    torch.testing.assert_close(expected, result.loss)


@over_bases
def test_contrast_differentiates_its_embedding_and_the_head_alone(name: str) -> None:
    encoder, base = make(name)
    result = base(encoder, batch_of([3, 30, 31, 7]), seed=0)
    before = copy.deepcopy(base.state_dict())
    embedding = torch.randn(4, encoder.info.dim, requires_grad=True)
    result.contrast(embedding).sum().backward()
    assert embedding.grad is not None
    assert embedding.grad.norm(dim=1).min() > 0
    assert all(p.grad is None for p in encoder.parameters())
    assert any(p.grad is not None for p in base.parameters())
    assert all(value.equal(before[key]) for key, value in base.state_dict().items())


# -- negatives and targets ----------------------------------------------------------------------------------------


def _influenced(name: str, index: list[int], view: int) -> bool:
    """Whether the loss of image 0 changes with a view of image 1."""
    encoder, base = make(name, per_image=True)
    losses = []
    for factor in (1, -1):
        batch = batch_of(index)
        batch["views"][view][1] *= factor
        losses.append(base(encoder, batch, seed=0).loss.detach())
    assert not torch.allclose(losses[0][1], losses[1][1])
    return not torch.allclose(losses[0][0], losses[1][0], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("MoCo", False), ("BYOL", False), ("SimCLR", True), ("MoCoV3", True)]
)
def test_which_images_of_the_batch_are_negatives(name: str, expected: bool) -> None:
    for view in (0, 1):
        assert _influenced(name, [4, 5, 6], view) == expected
        assert not _influenced(name, [4, 4, 6], view)  # the same image again


def test_every_base_is_in_the_table_of_negatives() -> None:
    (mark,) = test_which_images_of_the_batch_are_negatives.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(BASES)


@over_bases
def test_the_trained_parts_have_a_gradient_and_the_target_has_none(name: str) -> None:
    encoder, base = make(name)
    base(encoder, batch_of([3, 30, 31, 7]), seed=0).loss.mean().backward()
    assert all(p.grad is not None for p in _trained(encoder, base))
    assert sum(float(p.grad.abs().sum()) for p in encoder.parameters()) > 0  # type: ignore[union-attr]
    targets = [p for key, p in base.named_parameters() if key.startswith("key_")]
    assert bool(targets) == (name != "SimCLR")
    assert all(p.grad is None and not p.requires_grad for p in targets)
    ours = {t.data_ptr() for t in [*encoder.parameters(), *encoder.buffers()]}
    assert not ours & {t.data_ptr() for t in [*base.parameters(), *base.buffers()]}


@over_bases
def test_forward_changes_running_statistics_alone(name: str) -> None:
    encoder, base = make(name)
    before = copy.deepcopy(base.state_dict())
    base(encoder, batch_of([3, 30, 31, 7]), seed=0)
    changed = {key for key, value in base.state_dict().items() if not value.equal(before[key])}
    assert {key.rpartition(".")[2] for key in changed} <= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


@over_bases
def test_the_numbers_of_the_images_may_be_of_any_integer_type(name: str) -> None:
    losses = []
    for dtype in (torch.int64, torch.int32, torch.uint8):
        encoder, base = make(name)
        batch = batch_of([3, 30, 31, 7])
        result = base(encoder, batch | {"index": batch["index"].to(dtype)}, seed=0)
        base.after_backward(result)
        losses.append(base(encoder, batch_of([30, 3, 8, 9]), seed=1).loss)
    assert losses[0].equal(losses[1])
    assert losses[0].equal(losses[2])


# -- batches of one image -----------------------------------------------------------------------------------------


@over_bases
@pytest.mark.parametrize("per_image", [False, True])
def test_a_batch_of_one_image_is_finite_or_one_line(name: str, per_image: bool) -> None:
    encoder, base = make(name, per_image=per_image)
    batch = batch_of([3], size=32)
    refused = (name in SYMMETRIC and not per_image) or name in ("SimCLR", "MoCoV3")
    if refused:
        with pytest.raises(UserError, match=r"this batch has one: set `data.batch_size`"):
            base(encoder, batch, seed=0)
        return
    loss = base(encoder, batch, seed=0).loss
    loss.mean().backward()
    assert loss.isfinite().all()
    gradients = [p.grad for p in _trained(encoder, base)]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@over_bases
def test_a_batch_of_one_image_outside_of_training(name: str) -> None:
    encoder, base = make(name)
    encoder.eval()
    assert base.eval()(encoder, batch_of([3]), seed=0).loss.isfinite().all()


# -- training -----------------------------------------------------------------------------------------------------


class Meddler(LossPlugin):
    """Does all that a plugin may do, with weight 0."""

    def needs_image_gradient(self, progress: float, number: int) -> bool:
        return True

    def forward(self, step: TrainingStep) -> LossTerm:
        (gradient,) = torch.autograd.grad(
            step.contrastive_loss.sum(), step.image, retain_graph=True
        )
        similarity = (step.z * step.key).sum(dim=1)
        other = step.contrast(step.feature_map.mean(dim=(2, 3)))
        return LossTerm(other + similarity + gradient.square().mean() + step.embedding.mean(dim=1))

    def weight(self, progress: float) -> float:
        return 0.0


def _fit(
    name: str,
    images: Path,
    out: Path,
    *,
    plugins: Any = None,
    model: PPSSL | None = None,
    **options: Any,
) -> PPSSL:
    if model is None:
        torch.manual_seed(0)
        model = PPSSL(**TINY, contrastive=BASES[name](), lr=0.01, plugins=plugins)
    data = FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, val_fraction=0.25, seed=0
    )
    settings: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 2, "logger": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "limit_val_batches": 0, "log_every_n_steps": 1}
    resumed = options.pop("ckpt_path", None)
    trainer = Trainer(default_root_dir=out, num_sanity_val_steps=0, **settings | options)
    trainer.fit(model, data, ckpt_path=resumed)
    return model


@over_bases
def test_a_plugin_of_weight_0_is_bitwise_the_run_without(
    name: str, image_folder: Path, tmp_path: Path
) -> None:
    plain = _fit(name, image_folder, tmp_path).state_dict()
    plugins = {"meddler": Meddler(), "iadm": IADM(loss_weight=0.0, use="both")}
    full = _fit(name, image_folder, tmp_path, plugins=plugins).state_dict()
    assert plain.keys() == {key for key in full if not key.startswith("plugins.")}
    assert all(value.equal(full[key]) for key, value in plain.items())


@over_bases
def test_a_run_depends_on_its_seeds_alone(name: str, image_folder: Path, tmp_path: Path) -> None:
    """With drop path, also while the queue is filled; whatever was drawn from torch before."""
    runs = []
    for drawn in (0, 1):
        kwargs = VIT["backbone_kwargs"] | {"depth": 2, "drop_path_rate": 0.5}
        options: dict[str, Any] = VIT | {"backbone_kwargs": kwargs, "init_seed": 0}
        model = PPSSL(**options, optimizer="adamw", contrastive=BASES[name]())
        torch.manual_seed(drawn)
        runs.append(_fit(name, image_folder, tmp_path, model=model, max_epochs=1).state_dict())
    assert all(value.equal(runs[1][key]) for key, value in runs[0].items())


@over_bases
def test_a_resumed_run_is_bitwise_the_run_without_a_break(
    name: str, image_folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "middle.ckpt"
    straight = _fit(name, image_folder, tmp_path, callbacks=[SaveAt(2, saved)]).state_dict()
    resumed = _fit(name, image_folder, tmp_path, ckpt_path=str(saved)).state_dict()
    assert straight.keys() == resumed.keys()
    assert all(value.equal(resumed[key]) for key, value in straight.items())
    middle = torch.load(saved, weights_only=True)["state_dict"]
    assert not all(value.equal(straight[key]) for key, value in middle.items())
    assert PPSSL.load_from_checkpoint(saved).contrastive.config()["class_path"] == f"ppssl.{name}"


class _Look(SaveAt):
    """Losses and logged values of each step."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.logged: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.losses.append(args[1]["loss"].detach())
        self.logged = dict(trainer.callback_metrics)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TimmTeacher:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(create_model("test_resnet", num_classes=0).state_dict(), path)
    return TimmTeacher("test_resnet", pretrained=str(path), image_size=32)


@over_bases
def test_all_plugins_work_with_it_in_float32_and_bf16(
    name: str, image_folder: Path, tmp_path: Path, teacher: TimmTeacher
) -> None:
    runs = []
    for precision in ("32-true", "bf16-mixed"):
        plugins = {
            "ais": AIS("synthetic-birds", teacher="synthetic-clip"),
            "iadm": IADM(start=0.0, full=0.0, debias=True, use="both", every=1),
            "anchor": Anchor(),
            "distillation": Distillation(teacher),
        }
        look = _Look()
        options = {"precision": precision, "max_epochs": 1, "callbacks": [look]}
        model = _fit(name, image_folder, tmp_path, plugins=plugins, **options)
        names = {f"train/loss_{plugin}" for plugin in (*plugins, "contrastive")}
        assert names <= set(look.logged)
        assert all(look.logged[key].isfinite() for key in look.logged)
        assert all(value.isfinite().all() for value in model.state_dict().values())
        types = {v.dtype for v in model.state_dict().values() if v.is_floating_point()}
        assert types == {torch.float32}
        runs.append(torch.stack(look.losses))
    assert not runs[0].equal(runs[1])
    assert runs[1].isfinite().all()
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=0.01, atol=0)  # later steps drift apart
