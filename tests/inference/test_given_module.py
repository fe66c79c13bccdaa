"""A checkpoint of a module that it does not hold: the module is given again, or one line says to which call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Trainer
from torch import nn

import ppssl
from ppssl import PPSSL, FolderDataModule, MoCo, UserError, duplicates, embed, evaluate
from ppssl.encoder import load_encoder
from ppssl.inference.export import export


def _module() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())


@pytest.fixture
def data(image_folder: Path) -> FolderDataModule:
    return FolderDataModule(str(image_folder), image_size=32, batch_size=4, num_workers=0)


@pytest.fixture
def trained(data: FolderDataModule) -> PPSSL:
    model = PPSSL(_module(), contrastive=MoCo(dim=8, queue_size=16))
    options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, limit_val_batches=0, logger=False, accelerator="cpu", **options)
    trainer.fit(model, data)
    return model


@pytest.fixture
def checkpoint(trained: PPSSL, tmp_path: Path) -> Path:
    trained.trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_the_encoder_takes_the_place_of_the_path(
    trained: PPSSL, checkpoint: Path, data: FolderDataModule, tmp_path: Path
) -> None:
    encoder = load_encoder(checkpoint, backbone=_module())
    expected = evaluate(trained, data).metrics
    assert evaluate(encoder, data).metrics == pytest.approx(expected, nan_ok=True)
    of_model = pq.read_table(embed(trained, data, tmp_path / "model.parquet"))
    of_encoder = pq.read_table(embed(encoder, data, tmp_path / "encoder.parquet"))
    assert of_encoder.equals(of_model)
    assert duplicates(encoder, data) == duplicates(trained, data)
    assert export(checkpoint, "onnx", tmp_path / "out", backbone=_module()) < 1e-4


@pytest.mark.parametrize(
    "call",
    [
        evaluate,
        duplicates,
        lambda path: embed(path, out=path.with_name("x.parquet")),
        lambda path: ppssl.report(path, out=path.with_name("report.html")),
        lambda path: export(path, "onnx", path.with_name("out")),
    ],
)
def test_of_the_path_alone_one_line_names_the_calls(
    call: Callable[[Path], Any], checkpoint: Path
) -> None:
    with pytest.raises(UserError, match=r"was made of a `Sequential`") as error:
        call(checkpoint)
    line = str(error.value)
    assert "`load_encoder(path, backbone=...)`, whose encoder `evaluate`, `embed` and" in line
    assert "`ppssl.export(path, to, out, backbone=...)`, or derive its class from" in line
    assert "\n" not in line
