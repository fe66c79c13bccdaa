"""Comparison of start and end without labels."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from ppssl import PPSSL, FolderDataModule, MoCo, MoCoV2Augmentation
from ppssl.callbacks.label_free import embed_two_views, label_free_values
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.metrics.rankme import rankme
from processes import finish, start


@pytest.fixture
def unlabelled(tmp_path: Path) -> str:
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(20):
        pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{i}.png")
    return str(folder)


def _fit(
    folder: Path, images: str, monitor: RepresentationMonitor, local: int = 0, **kwargs: Any
) -> PPSSL:
    torch.manual_seed(0)
    encoder: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    model = PPSSL(**encoder, contrastive=MoCo(dim=8), lr=0.05)
    settings: dict[str, Any] = {"max_epochs": 2, "logger": False, "enable_checkpointing": False}
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[monitor],
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings | kwargs,
    )
    small: dict[str, Any] = {"image_size": 32, "batch_size": 5, "num_workers": 0, "seed": 0}
    augmentation = MoCoV2Augmentation(local_crops=local, local_size=16)
    trainer.fit(model, FolderDataModule(images, augmentation=augmentation, **small))
    return model


def test_values_are_those_of_their_formulas() -> None:
    random = np.random.default_rng(0)
    first, noise = random.normal(size=(30, 6)), random.normal(size=(30, 6))
    second = first + noise
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
    nearest = [int(np.argmax([row @ other for other in y])) for row in x]
    agreement = np.mean(np.array(nearest) == np.arange(30))
    assert 0.2 < agreement < 1
    pairs = [np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(30) for j in range(i)]
    found = label_free_values(torch.from_numpy(first), torch.from_numpy(second))
    assert found == pytest.approx(
        {
            "view_agreement": agreement,
            "alignment": np.mean(np.sum((x - y) ** 2, axis=1)),
            "uniformity": np.log(np.mean(pairs)),
            "rankme": float(rankme(torch.from_numpy(first).float())),
        },
        rel=1e-5,
    )


def test_equal_views_are_aligned_and_opposite_ones_are_not() -> None:
    views = torch.eye(4)
    assert label_free_values(views, views)["alignment"] == 0
    assert label_free_values(views, views)["view_agreement"] == 1
    assert label_free_values(views, -views)["alignment"] == 4


def test_a_run_without_labels_compares_views(
    tmp_path: Path, unlabelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = RepresentationMonitor()
    _fit(tmp_path, unlabelled, monitor)
    assert set(monitor.start) == {"view_agreement", "alignment", "uniformity", "rankme"}
    assert monitor.start != monitor.end
    assert monitor.end_epoch == 2
    shown = capsys.readouterr().out
    assert "Training images" in shown
    assert "views that find each other" in shown
    assert f"{monitor.end['uniformity']:.2f}" in shown


def test_it_changes_nothing_of_the_training(tmp_path: Path, unlabelled: str) -> None:
    states = [
        _fit(tmp_path, unlabelled, RepresentationMonitor(compare_with_start=compare)).state_dict()
        for compare in (True, False)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_the_same_views_at_each_call_at_most_as_many_as_wanted(
    tmp_path: Path, unlabelled: str
) -> None:
    class Twice(RepresentationMonitor):
        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            self.both = [embed_two_views(pl_module, data, images=8) for _ in range(2)]

    monitor = Twice()
    _fit(tmp_path, unlabelled, monitor, max_epochs=1)
    (a, b), (c, d) = monitor.both
    assert len(a) == len(b) == 8
    assert not torch.equal(a, b)
    torch.testing.assert_close((a, b), (c, d), rtol=0, atol=0)


def test_further_views_are_not_looked_at(tmp_path: Path, unlabelled: str) -> None:
    plain, local = RepresentationMonitor(), RepresentationMonitor()
    _fit(tmp_path, unlabelled, plain, max_epochs=1)
    _fit(tmp_path, unlabelled, local, local=1, max_epochs=1)
    assert plain.start == local.start
    assert plain.end != local.end


TWO_PROCESSES = """
import sys
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from ppssl import PPSSL, FolderDataModule, MoCo

images, out = sys.argv[1:]
small = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}, "lr": 0.05}
kinds = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
trainer = Trainer(**kinds, max_epochs=1, logger=CSVLogger(out), default_root_dir=out)
data = FolderDataModule(images, image_size=32, batch_size=4, num_workers=0)
trainer.fit(PPSSL(**small, contrastive=MoCo(dim=8)), data)
"""


@pytest.mark.slow
def test_only_the_first_of_two_processes_compares_views(unlabelled: str, tmp_path: Path) -> None:
    """The second one has no start to report, and still answers where the folder of the logs is."""
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    finish(start([sys.executable, tmp_path / "run.py", unlabelled, tmp_path / "out"]))
    (written,) = (tmp_path / "out").rglob("start_and_end.json")
    assert json.loads(written.read_text())["end"]
