"""The data set of a checkpoint is found in Python as on the command line, or one line says what is wrong."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Trainer
from torchvision.datasets import ImageFolder

import ppssl
from ppssl import PPSSL, FolderDataModule, UserError, duplicates, embed, evaluate, evaluate_rows
from ppssl.losses.contrastive import MoCo


def _data(images: Path) -> FolderDataModule:
    return FolderDataModule(str(images), image_size=32, batch_size=4, num_workers=0)


@pytest.fixture
def checkpoint(image_folder: Path, tmp_path: Path) -> Path:
    model = PPSSL(
        "resnet_small", backbone_kwargs={"width": 4}, contrastive=MoCo(dim=8, queue_size=16)
    )
    options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, limit_val_batches=0, logger=False, accelerator="cpu", **options)
    trainer.fit(model, _data(image_folder))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_the_data_set_of_a_checkpoint_is_found(
    checkpoint: Path, image_folder: Path, tmp_path: Path
) -> None:
    data = _data(image_folder)
    expected = evaluate(checkpoint, data).metrics
    assert evaluate(checkpoint).metrics == pytest.approx(expected, nan_ok=True)
    assert evaluate_rows(checkpoint)[0].results.metrics == pytest.approx(expected, nan_ok=True)
    found = embed(checkpoint, out=tmp_path / "found.parquet")
    given = embed(checkpoint, data, tmp_path / "given.parquet")
    assert pq.read_table(found).equals(pq.read_table(given), check_metadata=True)
    assert duplicates(checkpoint) == duplicates(checkpoint, data)
    assert evaluate(found).metrics == pytest.approx(expected, nan_ok=True, abs=1e-5)
    with pytest.raises(UserError, match="has its own labels: remove `data`"):
        evaluate(found, data)


def test_what_is_no_data_set_of_ppssl_is_refused(checkpoint: Path, image_folder: Path) -> None:
    images: Any = ImageFolder(str(image_folder / "train"))
    line = r"`data` must be a data module of ppssl, got a `ImageFolder`: `ppssl.DatasetDataModule"
    for call in (evaluate, evaluate_rows, duplicates, embed):
        with pytest.raises(UserError, match=line):
            call(checkpoint, images)
    with pytest.raises(UserError, match=line):
        ppssl.report(checkpoint, images, out=checkpoint.with_name("report.html"))
    with pytest.raises(UserError, match="`out` is missing"):
        embed(checkpoint)
