"""The training images that callbacks look at."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from ppssl import IADM, PPSSL, FolderDataModule, UserError
from ppssl.callbacks.example_images import example_batch
from ppssl.data.transforms import center_view
from ppssl.losses.contrastive import MoCo
from ppssl.losses.iadm.callback import IADMCallback


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of five JPEGs of noise."""
    for label in ("a", "b"):
        (tmp_path / "jpeg" / label).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "jpeg" / label / f"{i}.jpg")
    return tmp_path / "jpeg"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def _data(root: Path, **kwargs: Any) -> FolderDataModule:
    data = FolderDataModule(str(root), image_size=32, batch_size=5, num_workers=0, **kwargs)
    data.setup()
    return data


def test_example_images_are_evenly_spaced_training_images(photographs: Path) -> None:
    data = _data(photographs)
    batch = example_batch(data, 4)
    assert batch["index"].tolist() == [0, 3, 6, 9]
    assert batch["label"].tolist() == [0, 0, 1, 1]
    images = [center_view(data.sources["train"].load(i), 32, data.eval_crop) for i in (0, 3, 6, 9)]
    assert batch["image"].equal(torch.stack(images))
    assert example_batch(data, 99)["index"].tolist() == list(range(10))


@pytest.mark.parametrize(("torn", "left"), [("a/3", [0, 6, 9]), ("b/4", [0, 3, 6])])
def test_a_broken_example_image_is_skipped_with_its_warning(
    torn: str, left: list[int], photographs: Path, recwarn: pytest.WarningsRecorder
) -> None:
    _truncate(photographs / f"{torn}.jpg")
    data = _data(photographs, on_error="skip")
    for _ in range(2):
        batch = example_batch(data, 4)
        assert batch["index"].tolist() == left
        assert len(batch["image"]) == len(batch["label"]) == 3
    said = [str(w.message) for w in recwarn if "Skipped" in str(w.message)]
    assert len(said) == 1
    assert f"{torn}.jpg: " in said[0]


def test_a_broken_example_image_is_named_where_nothing_is_skipped(photographs: Path) -> None:
    _truncate(photographs / "a" / "3.jpg")
    with pytest.raises(UserError, match=r"Cannot read .*a/3\.jpg: .* or set `on_error: skip`"):
        example_batch(_data(photographs), 4)


def test_a_run_with_a_broken_example_image_is_watched_to_its_end(
    photographs: Path, tmp_path: Path
) -> None:
    _truncate(photographs / "a" / "3.jpg")
    small = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    model = PPSSL(**small, contrastive=MoCo(dim=8), plugins={"iadm": IADM(start=0.0, full=0.0)})
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    callbacks = [IADMCallback(every_n_epochs=1, num_images=4, num_probes=4)]
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, callbacks=callbacks, **quiet
    )
    with pytest.warns(UserWarning, match=r"Skipped .*a/3\.jpg"):
        trainer.fit(model, _data(photographs, on_error="skip"))
    assert 0 < trainer.callback_metrics["train/iadm_health_entropy"] <= 1
    assert len(list(tmp_path.rglob("iadm-saliency-*.png"))) == 1
