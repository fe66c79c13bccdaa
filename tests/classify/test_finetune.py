"""Fine-tuning and the trained linear probe: what moves, at which rate, by which loss, and what comes back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from sklearn.utils.class_weight import compute_class_weight
from timm.optim import param_groups_layer_decay

from ppssl import PPSSL, FineTune, FolderDataModule, LinearProbe, UserError, load_encoder
from ppssl.classify.finetune import layer_decay_groups

SMALL = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


def _data(images: Path, **kwargs: Any) -> FolderDataModule:
    small = {"image_size": 32, "batch_size": 6, "num_workers": 0, "val_fraction": 0.25, "seed": 0}
    return FolderDataModule(str(images), **small | kwargs)


def _trainer(out: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(default_root_dir=out, callbacks=list(callbacks), **quiet | kwargs)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet18", {}),
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 24, "num_heads": 2}),
    ],
)
def test_rates_are_those_of_timm_for_the_model_with_its_own_classifier(
    name: str, kwargs: dict[str, Any]
) -> None:
    whole = timm.create_model(name, num_classes=5, **kwargs)
    head = whole.get_classifier()
    heads = {id(p) for p in head.parameters()}
    exempt = getattr(whole, "no_weight_decay", set)()
    groups = param_groups_layer_decay(whole, 0.05, exempt, layer_decay=0.7)
    expected = {
        id(p): (0.1 * g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]
    }
    whole.reset_classifier(0)
    ours = layer_decay_groups(whole, head, lr=0.1, weight_decay=0.05, layer_decay=0.7)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in ours for p in g["params"]}
    assert found == expected
    assert {found[k][0] for k in heads} == {0.1}
    assert len({lr for lr, _ in found.values()}) > 3


def test_loss_is_the_equation() -> None:
    model = FineTune(**SMALL, num_classes=3, label_smoothing=0.2)
    model.class_weight = torch.tensor([0.5, 1.0, 2.0])
    logits, label = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    target = F.one_hot(label, 3) * 0.8 + 0.2 / 3
    expected = 0.0
    for row, t in zip(logits.double(), target.double(), strict=True):
        logs = row - torch.logsumexp(row, 0)
        expected -= sum(float(model.class_weight[k] * t[k] * logs[k]) for k in range(3)) / 4
    assert float(model.loss(logits, label)) == pytest.approx(expected, rel=1e-5)
    assert float(model.loss(logits, target)) == pytest.approx(expected, rel=1e-5)


def test_mixed_batches_are_functions_of_their_numbers() -> None:
    model = FineTune(**SMALL, num_classes=3, mixup=0.8, cutmix=1.0, label_smoothing=0.0, seed=3)
    images, label = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    np.random.seed(0)
    before, state = images.clone(), np.random.get_state()[1].copy()
    first, target = model.mix(images, label, 0)
    assert torch.equal(images, before)
    assert np.array_equal(np.random.get_state()[1], state)
    again = model.mix(images, label, 0)
    assert torch.equal(first, again[0])
    assert torch.equal(target, again[1])
    assert not torch.equal(first, model.mix(images, label, 1)[0])
    torch.testing.assert_close(target.sum(dim=1), torch.ones(4))
    # The target says how much of each image is its own: by pixels (cutmix) or by brightness (mixup).
    lam = float(target[1, 1])
    own = (first == images).all(dim=1).float().mean(dim=(1, 2))
    mixed = lam * images + (1 - lam) * images.flip(0)
    assert float(own[1]) == pytest.approx(lam, abs=0.02) or torch.allclose(first, mixed, atol=1e-6)


class Watch(Callback):
    """Encoder weights and statistics after each epoch, and the rates."""

    def __init__(self) -> None:
        self.encoders: list[dict[str, torch.Tensor]] = []
        self.heads: list[torch.Tensor] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.encoders.append({k: v.clone() for k, v in pl_module.encoder.state_dict().items()})
        self.heads.append(pl_module.head.weight.detach().clone())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_encoder_is_not_touched_and_then_trains(
    optimizer: Any, image_folder: Path, tmp_path: Path
) -> None:
    model = FineTune(**SMALL, freeze_epochs=1, optimizer=optimizer, warmup_fraction=0)
    first = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    _trainer(tmp_path, watch := Watch(), max_epochs=2).fit(model, _data(image_folder))
    assert all(torch.equal(v, first[k]) for k, v in watch.encoders[0].items())
    assert watch.heads[0].abs().sum() > 0
    changed = {k for k, v in watch.encoders[1].items() if not torch.equal(v, first[k])}
    assert len(changed) > len(first) / 2


def test_linear_probe_trains_the_linear_layer_alone(image_folder: Path, tmp_path: Path) -> None:
    model = LinearProbe(**SMALL, lr=1.0)
    first = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    trainer = _trainer(tmp_path, watch := Watch(), max_epochs=5)
    trainer.fit(model, _data(image_folder))
    assert all(torch.equal(v, first[k]) for k, v in watch.encoders[-1].items())
    assert not torch.equal(watch.heads[0], watch.heads[1])
    assert trainer.callback_metrics["val/top1"] > 0.6  # a class is a colour


def test_only_labels_that_may_be_used_are_seen(image_folder: Path, tmp_path: Path) -> None:
    """Never a held-out image, never one without its label, and each at most once an epoch."""

    class Seen(Callback):
        def __init__(self) -> None:
            self.train: list[int] = []
            self.val: list[int] = []

        def on_train_batch_end(
            self, trainer: Any, module: Any, out: Any, batch: Any, i: int
        ) -> None:
            self.train += batch["index"].tolist()

        def on_validation_batch_end(self, *args: Any) -> None:
            self.val += args[3]["index"].tolist()

    data = _data(image_folder, label_fraction=0.75, batch_size=2)
    _trainer(tmp_path, seen := Seen(), max_epochs=1).fit(FineTune(**SMALL), data)
    assert len(seen.train) == len(set(seen.train)) == 12
    assert set(seen.train) == set(data.train_fit.tolist())
    assert sorted(seen.val) == data.train_val.tolist()
    assert len(data.train_labelled) == 18


def test_balanced_weights_are_scikit_learns(image_folder: Path, tmp_path: Path) -> None:
    for path in sorted((image_folder / "train" / "class0").glob("*.png"))[3:]:
        path.unlink()
    data = _data(image_folder, val_fraction=0)
    model = FineTune(**SMALL, class_weights="balanced")
    _trainer(tmp_path, max_steps=1).fit(model, data)
    labels = np.repeat([0, 1, 2], [3, 8, 8])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(model.class_weight, torch.tensor(expected, dtype=torch.float32))


def test_checkpoint_comes_back_without_arguments(image_folder: Path, tmp_path: Path) -> None:
    model = FineTune(**SMALL, mixup=0.2, label_smoothing=0.05)
    trainer = _trainer(tmp_path, max_steps=2)
    trainer.fit(model, _data(image_folder))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["ppssl"]["classes"] == ["class0", "class1", "class2"]
    back = FineTune.load_from_checkpoint(path).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(back(images), model.eval()(images))
        torch.testing.assert_close(load_encoder(path)(images), model.encoder(images))
    assert (back.mixup, back.classes) == (0.2, model.classes)
    with pytest.raises(UserError, match="holds a `FineTune`, not a `LinearProbe`"):
        LinearProbe.load_from_checkpoint(path)
    started = FineTune(pretrained=str(path))
    assert started.backbone_kwargs == {"width": 4}
    with torch.no_grad():
        torch.testing.assert_close(started.eval().encoder(images), model.encoder(images))


def test_pretraining_is_where_it_starts(image_folder: Path, tmp_path: Path) -> None:
    pretrained = PPSSL(**SMALL)
    trainer = _trainer(tmp_path, max_steps=1)
    data = _data(image_folder)
    trainer.fit(pretrained, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    model = FineTune(pretrained=str(tmp_path / "last.ckpt"))
    ours, theirs = model.encoder.state_dict(), pretrained.encoder.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())
    _trainer(tmp_path, max_steps=1).fit(model, data)  # the same data module, now with labels
    with pytest.raises(UserError, match="do not fit the backbone"):
        FineTune(backbone="resnet18", pretrained=str(tmp_path / "last.ckpt"))


def test_arguments_that_a_checkpoint_replaces_are_named(
    image_folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    trainer = _trainer(tmp_path, max_steps=1)
    trainer.fit(PPSSL(**SMALL), _data(image_folder))
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    recwarn.clear()
    for make in (FineTune, LinearProbe):
        make(pretrained=path, backbone_kwargs=SMALL["backbone_kwargs"])
        assert not [w for w in recwarn if "backbone_kwargs" in str(w.message)]
        with pytest.warns(UserWarning, match="Passed over: `backbone_kwargs` `global_pool`. .*4"):
            make(pretrained=path, backbone_kwargs=SMALL["backbone_kwargs"] | {"global_pool": ""})


def test_moving_average_is_what_is_validated_and_saved(image_folder: Path, tmp_path: Path) -> None:
    class Weights(Callback):
        def __init__(self) -> None:
            self.after: list[torch.Tensor] = []
            self.validated: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.after.append(module.head.weight.detach().clone())

        def on_validation_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            self.validated.append(module.head.weight.detach().clone())

    model = FineTune(**SMALL, ema_decay=0.5, warmup_fraction=0)
    trainer = _trainer(tmp_path, weights := Weights(), max_epochs=1)
    trainer.fit(model, _data(image_folder, val_fraction=0.25))
    average = weights.after[0]
    for n, current in enumerate(weights.after[1:], start=1):
        d = min(0.5, (1 + n) / (10 + n))
        average = d * average + (1 - d) * current
    assert len(weights.after) > 2
    torch.testing.assert_close(weights.validated[0], average)
    torch.testing.assert_close(model.head.weight, average)
    assert not torch.allclose(average, weights.after[-1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layer_decay": 0.0}, r"`layer_decay` must be in \(0, 1\], got 0.0"),
        ({"mixup": -1.0}, "`mixup` must be >= 0"),
        ({"label_smoothing": 1.0}, "`label_smoothing`"),
        ({"ema_decay": 1.0}, "`ema_decay` must be in"),
        ({"class_weights": "even"}, "`class_weights` must be 'balanced'"),
        ({"num_classes": 1}, "`num_classes` must be >= 2"),
        ({"freeze_epochs": -1}, "`freeze_epochs` must be >= 0"),
    ],
)
def test_arguments_are_checked(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTune(**SMALL, **kwargs)


def test_what_cannot_be_trained_is_said(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`backbone` is missing: give a timm model name"):
        FineTune()
    with pytest.raises(UserError, match="need an even `batch_size`, got 5"):
        _trainer(tmp_path, max_steps=1).fit(
            FineTune(**SMALL, mixup=0.2), _data(image_folder, batch_size=5)
        )
    with pytest.raises(UserError, match="larger than the data set of 18 labelled training images"):
        _trainer(tmp_path, max_steps=1).fit(FineTune(**SMALL), _data(image_folder, batch_size=20))
    with pytest.raises(UserError, match="The 3 classes of the data set differ from the 7 classes"):
        _trainer(tmp_path, max_steps=1).fit(FineTune(**SMALL, num_classes=7), _data(image_folder))
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(image_folder.rglob("*.png")):
        path.rename(flat / f"{i}.png")
    with pytest.raises(UserError, match="no training image has a label"):
        _trainer(tmp_path, max_steps=1).fit(FineTune(**SMALL), _data(flat))
