"""A training step between two logged ones never makes the host wait for the device."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from operations import Operations
from ppssl import AIS, IADM, PPSSL, FolderDataModule, LossPlugin, LossTerm, TrainingStep
from ppssl.losses.contrastive import MoCo
from tiny import tiny_clip

EVERY = 4
"""Steps between two logged ones."""
HOST_READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class InUnloggedSteps(Callback):
    """Watches the steps that are not logged, from the transferred batch to the end of the optimizer step."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.steps = 0
        self._mode: Operations | None = None

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if (trainer.global_step + 1) % EVERY:
            self.start()

    def on_train_batch_end(self, *args: Any) -> None:
        self.stop()

    def start(self) -> None:
        self._mode = Operations()
        self._mode.__enter__()

    def stop(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self.counts += self._mode.counts
            self.steps += 1
        self._mode = None


class NoSynchronisation(InUnloggedSteps):
    """The same on a GPU, where torch itself raises an error."""

    def start(self) -> None:
        torch.cuda.set_sync_debug_mode("error")
        self.steps += 1

    def stop(self) -> None:
        torch.cuda.set_sync_debug_mode("default")


class Reads(LossPlugin):
    """A plugin that reads a value, which the test must notice."""

    def forward(self, step: TrainingStep) -> LossTerm:
        return LossTerm(step.embedding.mean(dim=1) * step.z.sum().item())


def _fit(images: Path, folder: Path, watch: Callback, plugins: Any, **trainer: Any) -> None:
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 8},
        contrastive=MoCo(dim=8),
        optimizer="adamw",
        lr=1e-3,
        plugins=plugins,
    )
    data = FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0)
    Trainer(
        max_epochs=4,
        log_every_n_steps=EVERY,
        limit_val_batches=0,
        enable_checkpointing=False,
        default_root_dir=folder,
        gradient_clip_val=1.0,
        callbacks=[watch],
        **{"accelerator": "cpu"} | trainer,
    ).fit(model, data)


def _full(folder: Path) -> dict[str, LossPlugin]:
    """Both plugins, A* in each step."""
    corpus = folder / "corpus.txt"
    corpus.write_text("a red square\na green square\na blue square\n")
    ais = AIS(str(corpus), teacher=str(tiny_clip(folder / "clip")))
    return {"ais": ais, "iadm": IADM(start=0, full=0, every=1)}


def test_no_value_is_read(image_folder: Path, tmp_path: Path) -> None:
    watch = InUnloggedSteps()
    _fit(image_folder, tmp_path, watch, _full(tmp_path))
    assert watch.steps == 9
    assert watch.counts["convolution"] > 0
    assert {name: watch.counts[name] for name in HOST_READS if watch.counts[name]} == {}


def test_a_value_that_is_read_is_noticed(image_folder: Path, tmp_path: Path) -> None:
    watch = InUnloggedSteps()
    _fit(image_folder, tmp_path, watch, {"reads": Reads()})
    assert watch.counts["_local_scalar_dense"] == watch.steps


def _transfer(images: Path, device: str) -> FolderDataModule:
    """A data module that has finished a batch on the device before, and so has its constants there."""
    data = FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, augment_on="device"
    )
    data.setup()
    _finish(data, _moved(data, device))
    return data


def _moved(data: FolderDataModule, device: str) -> Any:
    batch = data.on_before_batch_transfer(next(iter(data.train_dataloader(epoch=0))), 0)
    return data.transfer_batch_to_device(batch, torch.device(device), 0)


def _finish(data: FolderDataModule, batch: Any) -> None:
    assert data.on_after_batch_transfer(batch, 0)["views"][0].dtype == torch.float32


def test_no_value_is_read_by_the_augmentation_on_the_device(image_folder: Path) -> None:
    data = _transfer(image_folder, "cpu")
    batch = _moved(data, "cpu")
    with Operations() as operations:
        _finish(data, batch)
    assert operations.counts["convolution"] == 4  # rows and columns of two views
    assert {name: operations.counts[name] for name in HOST_READS if operations.counts[name]} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_synchronisation_by_the_augmentation_on_a_gpu(image_folder: Path) -> None:
    data = _transfer(image_folder, "cuda")
    batch = _moved(data, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        _finish(data, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_synchronisation_on_a_gpu(image_folder: Path, tmp_path: Path, precision: Any) -> None:
    watch = NoSynchronisation()
    _fit(
        image_folder,
        tmp_path,
        watch,
        _full(tmp_path),
        accelerator="gpu",
        devices=1,
        precision=precision,
    )
    assert watch.steps == 9
