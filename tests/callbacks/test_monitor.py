from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader

from ppssl import PPSSL, FolderDataModule
from ppssl.callbacks.monitor import RepresentationMonitor, validation_interval
from ppssl.inference.embeddings import embed_loader
from ppssl.metrics.retrieval import retrieval_metrics
from tiny import TinyEncoder


def _trainer(**kwargs: Any) -> Trainer:
    return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, **kwargs)


def test_logs_what_scikit_learn_and_the_metrics_say(image_folder: Path) -> None:
    torch.manual_seed(0)
    model = PPSSL(backbone="resnet_small", backbone_kwargs={"width": 4})
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=5, num_workers=0)
    trainer = _trainer(callbacks=[RepresentationMonitor(k=1)])
    trainer.test(model, data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    gallery, queries = (
        embed_loader(model.encoder, loader, data) for loader in data.test_dataloader()
    )
    unit = [torch.nn.functional.normalize(e.features, dim=1).numpy() for e in (gallery, queries)]
    knn = KNeighborsClassifier(1, metric="cosine").fit(unit[0], gallery.labels)
    assert logged["test/knn_top1"] == pytest.approx(
        np.mean(knn.predict(unit[1]) == queries.labels.numpy())
    )
    expected = retrieval_metrics(queries.features, queries.labels)
    assert logged["test/retrieval_map"] == pytest.approx(expected["mAP"], abs=1e-6)
    assert logged["test/retrieval_rank1"] == pytest.approx(expected["rank-1"])
    assert 1 <= logged["test/rankme"] <= 32


def test_neighbours_are_never_more_than_the_gallery(image_folder: Path) -> None:
    model = PPSSL(backbone="resnet_small", backbone_kwargs={"width": 4})
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    trainer = _trainer(callbacks=[RepresentationMonitor(k=1000)])
    trainer.validate(model, data, verbose=False)
    assert 0 <= float(trainer.callback_metrics["val/knn_top1"]) <= 1


@pytest.mark.parametrize(
    ("train", "val", "interval"),
    [(6000, 6000, 5), (6000, 600, 1), (6000, 1200, 1), (6000, 1201, 2), (18, 24, 7), (6000, 0, 1)],
)
def test_interval_keeps_validation_within_its_share(train: int, val: int, interval: int) -> None:
    assert validation_interval(train, val) == interval
    assert val * 0.25 / interval <= 0.05 * train
    assert interval == 1 or val * 0.25 / (interval - 1) > 0.05 * train


class Validations(Callback):
    """The epochs that ended with a validation, and what was logged in it."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.logged: list[str] = []

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.epochs.append(trainer.current_epoch)
            self.logged = [name for name in trainer.callback_metrics if name.startswith("val/")]


def _fit(
    images: Path, folder: Path, *callbacks: Callback, ckpt: Path | None = None, **kwargs: Any
) -> tuple[list[int], Trainer]:
    """The validated epochs of a run of 3 steps an epoch; gallery and queries are 3 batches and 1, which makes n = 7."""
    model = PPSSL(TinyEncoder(), lr=0.01)
    data = FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, val_fraction=0.25
    )
    seen = Validations()
    options: Any = {"max_epochs": 5, "enable_checkpointing": False, "accelerator": "cpu"} | kwargs
    trainer = Trainer(
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[seen, *callbacks],
        **options,
    )
    trainer.fit(model, data, ckpt_path=ckpt)
    assert "val/knn_top1" in seen.logged
    assert trainer.limit_val_batches == kwargs.get("limit_val_batches", 1.0)
    return seen.epochs, trainer


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({}, [4]),
        ({"max_epochs": 12}, [6, 11]),
        ({"max_epochs": 12, "num_sanity_val_steps": 0}, [6, 11]),
        ({"max_steps": 11, "max_epochs": -1}, [2]),  # the last epoch with all its steps
        ({"max_steps": 9, "max_epochs": 9}, [2]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2, "max_steps": 5}, [1]),
        ({"limit_val_batches": 1}, [3, 4]),  # 16 images
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, [1, 3]),
        ({"max_epochs": 1, "val_check_interval": 1}, [0, 0, 0]),
    ],
)
def test_epochs_by_default(
    options: dict[str, Any], validated: list[int], image_folder: Path, tmp_path: Path
) -> None:
    assert _fit(image_folder, tmp_path, **options)[0] == validated


def test_one_validation_loader_is_said_once(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = FolderDataModule.val_dataloader
    monkeypatch.setattr(FolderDataModule, "val_dataloader", lambda data: usual(data)[0])
    with pytest.warns(UserWarning, match="two loaders, gallery and queries") as said:
        _trainer(default_root_dir=tmp_path, max_epochs=2).fit(
            PPSSL(TinyEncoder(), lr=0.01),
            FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0),
        )
    assert sum("two loaders" in str(warning.message) for warning in said) == 1


def test_images_are_counted_not_batches(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = FolderDataModule.val_dataloader

    def one_by_one(data: FolderDataModule) -> list[DataLoader[Any]]:
        return [DataLoader(part.dataset, collate_fn=part.collate_fn) for part in usual(data)]

    monkeypatch.setattr(FolderDataModule, "val_dataloader", one_by_one)
    assert _fit(image_folder, tmp_path, max_epochs=6)[0] == [4, 5]


def test_epochs_by_choice(image_folder: Path, tmp_path: Path) -> None:
    found = {
        n: _fit(image_folder, tmp_path, RepresentationMonitor(every_n_epochs=n))[0] for n in (1, 3)
    }
    assert found == {1: [0, 1, 2, 3, 4], 3: [2, 4]}


def test_each_epoch_where_a_callback_monitors_what_it_logs(
    image_folder: Path, tmp_path: Path
) -> None:
    """Early stopping would count a value again that is not measured again."""
    stop = EarlyStopping("val/knn_top1", patience=9)
    assert _fit(image_folder, tmp_path, stop, max_epochs=3)[0] == [0, 1, 2]
    best = ModelCheckpoint(monitor="val/retrieval_map", mode="max")
    found, _ = _fit(image_folder, tmp_path, best, max_epochs=3, enable_checkpointing=True)
    assert found == [0, 1, 2]


def test_checkpoints_are_saved_in_epochs_without_validation_too(
    image_folder: Path, tmp_path: Path
) -> None:
    saved = ModelCheckpoint(save_top_k=-1, dirpath=tmp_path / "all")
    _fit(image_folder, tmp_path, saved, max_epochs=3, enable_checkpointing=True)
    assert len(list((tmp_path / "all").iterdir())) == 3


@pytest.mark.parametrize("step", [7, 9, 17])
def test_a_resumed_run_validates_in_the_same_epochs(
    step: int, image_folder: Path, tmp_path: Path
) -> None:
    """Resumed within an epoch, between two, and within the last."""
    monitor = partial(RepresentationMonitor, every_n_epochs=3)
    straight, _ = _fit(image_folder, tmp_path, monitor(), max_epochs=7)
    assert straight == [2, 5, 6]
    saved = ModelCheckpoint(
        every_n_train_steps=step, save_top_k=-1, dirpath=tmp_path, filename="{step}"
    )
    _fit(image_folder, tmp_path, saved, monitor(), max_epochs=7, enable_checkpointing=True)
    path = tmp_path / f"step={step}.ckpt"
    resumed, _ = _fit(image_folder, tmp_path, monitor(), max_epochs=7, ckpt=path)
    assert resumed == [epoch for epoch in straight if (epoch + 1) * 3 > step]


def test_validation_is_on_after_an_error(image_folder: Path, tmp_path: Path) -> None:
    class Fails(Callback):
        trainer: Trainer

        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            self.trainer = trainer
            assert trainer.limit_val_batches == 0
            raise RuntimeError("on purpose")

    fails = Fails()
    with pytest.raises(RuntimeError, match="on purpose"):
        _fit(image_folder, tmp_path, fails)
    assert fails.trainer.limit_val_batches == 1.0


@pytest.mark.parametrize("option", ["k", "every_n_epochs"])
def test_errors(option: str) -> None:
    with pytest.raises(ValueError, match=f"`{option}` must be >= 1, got 0"):
        RepresentationMonitor(**{option: 0})
