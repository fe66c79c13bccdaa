"""``ppssl predict``: its file holds what the model predicts, of each image once, under its name."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from ppssl import PPSSL, FineTune, FolderDataModule, UserError, embed
from ppssl.cli.main import main
from ppssl.inference.predictions import PredictionWriter

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


def _data(folder: Path, **kwargs: Any) -> FolderDataModule:
    return FolderDataModule(str(folder), image_size=32, batch_size=5, num_workers=0, **kwargs)


def _predict(model: Any, data: FolderDataModule, out: Path) -> list[dict[str, Any]]:
    trainer = Trainer(**QUIET, callbacks=[PredictionWriter(str(out))])
    trainer.predict(model, data, return_predictions=False)
    return pq.read_table(out).to_pylist()


def test_embeddings_are_those_of_embed(image_folder: Path, tmp_path: Path) -> None:
    model, data = PPSSL(**TINY), _data(image_folder)
    rows = _predict(model, data, tmp_path / "new" / "predictions.parquet")
    embedded = pq.read_table(embed(model, data, tmp_path / "e.parquet")).to_pylist()
    expected = [row for row in embedded if row["split"] == "test"]
    assert len(rows) == 12
    for row, other in zip(rows, expected, strict=True):
        assert row["embedding"] == pytest.approx(other["embedding"], abs=1e-5)
        assert {**row, "embedding": 0} == {**other, "embedding": 0}


def test_a_classifier_names_the_classes_of_unlabelled_images(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the command line, into the folder of the run's logs."""
    trainer = Trainer(**QUIET, max_epochs=4, enable_checkpointing=False)
    model = FineTune(**TINY, lr=1e-2, batch_norm="batch")
    trainer.fit(model, _data(image_folder, val_fraction=0.0))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "unknown").mkdir()
    for k in range(3):
        image = Image.open(image_folder / "test" / f"class{k}" / "0.png")
        image.save(tmp_path / "unknown" / f"{k}.png")
    arguments = {
        "config": "ppssl:folder/finetune",
        "model.backbone_kwargs": "{width: 4}",
        "model.pretrained": "false",
        "data.root": tmp_path / "unknown",
        "data.image_size": 32,
        "data.num_workers": 0,
        "trainer.default_root_dir": tmp_path / "run",
        "ckpt_path": tmp_path / "last.ckpt",
    }
    with caplog.at_level("INFO"):
        assert main(["predict", *(f"--{name}={value}" for name, value in arguments.items())]) == 0
    (path,) = (tmp_path / "run").rglob("predictions.parquet")
    assert f"Predictions of 3 images: {path}" in caplog.messages
    rows = pq.read_table(path).to_pylist()
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert [(row["class"], row["label"], row["index"]) for row in rows] == [
        (None, -1, i) for i in range(3)
    ]
    data = _data(tmp_path / "unknown")
    data.setup()
    with torch.no_grad():
        batch = next(iter(data.predict_dataloader()))
        expected = model.eval()(data.normalise(batch["image"])).softmax(dim=1)
    for row, probabilities in zip(rows, expected, strict=True):
        assert row["probabilities"] == pytest.approx(probabilities.tolist(), abs=1e-4)
        assert row["probability"] == max(row["probabilities"])
        assert row["predicted"] == model.classes[int(probabilities.argmax())]


def test_each_image_has_one_row_where_others_are_broken(image_folder: Path, tmp_path: Path) -> None:
    broken = image_folder / "test" / "class1" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.warns(UserWarning, match="Skipped"):
        rows = _predict(PPSSL(**TINY), _data(image_folder, on_error="skip"), tmp_path / "p.parquet")
    assert [row["index"] for row in rows] == [i for i in range(24, 36) if i != 28]
    assert [row["path"] for row in rows] == sorted({row["path"] for row in rows})


def test_the_former_file_stays_until_the_new_one_is_whole(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.parquet"
    _predict(PPSSL(**TINY), _data(image_folder), out)
    before = out.read_bytes()

    def full_disk(table: Any, where: Any, **kwargs: Any) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(UserError, match=r"Cannot write .*p\.parquet: No space left"):
        _predict(PPSSL(**TINY), _data(image_folder), out)
    assert out.read_bytes() == before
    assert list(tmp_path.glob("*p.parquet*")) == [out]


def test_a_trial_writes_nothing_and_replaces_nothing(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.parquet"
    out.write_text("of all images")
    trainer = Trainer(**QUIET, fast_dev_run=1, callbacks=[PredictionWriter(str(out))])
    assert trainer.predict(PPSSL(**TINY), _data(image_folder))
    assert out.read_text() == "of all images"


def test_data_of_ones_own_has_no_names_to_write(tmp_path: Path) -> None:
    """What is predicted is returned, as by Lightning."""
    out = tmp_path / "predictions.parquet"
    trainer = Trainer(**QUIET, callbacks=[PredictionWriter(str(out))])
    images = [{"image": torch.zeros(2, 3, 32, 32)}] * 2
    loader: Any = DataLoader(images, batch_size=None)
    with pytest.warns(UserWarning, match="No predictions are written: images have names"):
        predicted = trainer.predict(PPSSL(**TINY), loader)
    assert predicted is not None
    assert len(predicted) == 2
    assert not out.exists()


class Pairs(LightningModule):
    """A model whose prediction is no tensor."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return {"size": len(batch["image"])}


def test_what_cannot_be_written_is_said(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    trainer = Trainer(**QUIET, callbacks=[PredictionWriter(str(out))])
    with pytest.warns(UserWarning, match="`predict_step` must return a tensor"):
        trainer.predict(Pairs(), _data(image_folder))
    assert not out.exists()
    trainer = Trainer(**QUIET, callbacks=[PredictionWriter(str(image_folder))])
    with pytest.raises(UserError, match=r"Cannot write .*: it is a folder"):
        trainer.predict(PPSSL(**TINY), _data(image_folder))
    trainer = Trainer(**QUIET, callbacks=[PredictionWriter(tmp_path / "p.csv")])
    with pytest.raises(UserError, match=r"p\.csv is written as Parquet"):
        trainer.predict(PPSSL(**TINY), _data(image_folder))
