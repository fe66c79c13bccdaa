"""The table of start and end, its file, and what a checkpoint keeps of it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from ppssl import PPSSL, FolderDataModule, MoCo
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.callbacks.start_and_end import is_better, report_start_and_end, training_line


def _model(lr: float = 0.05) -> PPSSL:
    torch.manual_seed(0)
    small: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    return PPSSL(**small, contrastive=MoCo(dim=8), lr=lr)


def _trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    settings = quiet | {"max_epochs": 2, "logger": CSVLogger(folder)} | kwargs
    return Trainer(default_root_dir=folder, accelerator="cpu", **settings)


def _data(images: Path) -> FolderDataModule:
    return FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, val_fraction=0.25, seed=0
    )


def _validated(model: PPSSL, images: Path, folder: Path) -> dict[str, float]:
    [first, *_] = _trainer(folder, logger=False).validate(model, _data(images), verbose=False)
    return {name.removeprefix("val/"): value for name, value in first.items()}


def _monitor(trainer: Trainer) -> RepresentationMonitor:
    return next(c for c in trainer.callbacks if isinstance(c, RepresentationMonitor))  # type: ignore[attr-defined]


def test_values_are_those_of_a_validation_before_and_after(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _validated(_model(), image_folder, tmp_path)
    model, trainer = _model(), _trainer(tmp_path)
    trainer.fit(model, _data(image_folder))
    shown = capsys.readouterr().out
    after = _validated(model, image_folder, tmp_path)
    assert before != after
    assert _monitor(trainer).start == pytest.approx(before)
    assert _monitor(trainer).end == pytest.approx(after)
    for name in ("kNN top-1", "retrieval mAP", "RankMe", "start", "epoch 2"):
        assert name in shown
    for value in (before["retrieval_map"], after["retrieval_map"]):
        assert f"{100 * value:.1f}" in shown
    assert trainer.log_dir is not None
    written = json.loads((Path(trainer.log_dir) / "start_and_end.json").read_text())
    assert written["start"] == pytest.approx(before)
    assert written["end"] == pytest.approx(after)
    assert written["end_epoch"] == 2
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["callbacks"]["RepresentationMonitor"] == written
    line = training_line(checkpoint)
    first, last = (f"{100 * values['retrieval_map']:.1f}" for values in (before, after))
    assert f"retrieval mAP {first} -> {last} %" in line
    assert "epoch 2" in line


def test_a_resumed_run_keeps_the_start_of_the_first(tmp_path: Path, image_folder: Path) -> None:
    first = _trainer(tmp_path, max_epochs=1)
    first.fit(_model(), _data(image_folder))
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed = _trainer(tmp_path)
    resumed.fit(_model(), _data(image_folder), ckpt_path=tmp_path / "last.ckpt")
    assert _monitor(resumed).start == _monitor(first).start
    assert (_monitor(first).end_epoch, _monitor(resumed).end_epoch) == (1, 2)


def test_comparing_changes_nothing_of_the_training(tmp_path: Path, image_folder: Path) -> None:
    states = []
    for compare in (True, False):
        model = _model()
        monitor = RepresentationMonitor(compare_with_start=compare)
        trainer = _trainer(tmp_path, callbacks=[monitor], num_sanity_val_steps=0)
        trainer.fit(model, _data(image_folder))
        states.append(model.state_dict())
        assert bool(monitor.start) == compare
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_trial_runs_compare_and_write_nothing(tmp_path: Path, image_folder: Path) -> None:
    trainer = _trainer(tmp_path, fast_dev_run=True)
    trainer.fit(_model(), _data(image_folder))
    assert _monitor(trainer).start == {}
    assert not list(tmp_path.rglob("start_and_end.json"))


def test_a_run_without_a_logger_writes_nothing(tmp_path: Path, image_folder: Path) -> None:
    trainer = _trainer(tmp_path, logger=False, enable_checkpointing=False, max_epochs=1)
    trainer.fit(_model(), _data(image_folder))
    assert _monitor(trainer).start
    assert not list(tmp_path.rglob("*.json"))


def test_nothing_is_said_of_a_training_that_was_not_compared() -> None:
    assert training_line({}) == training_line({"callbacks": {"RepresentationMonitor": {}}}) == ""


def test_better_is_better_in_one_of_knn_and_map() -> None:
    start = {"knn_top1": 0.5, "retrieval_map": 0.2, "rankme": 10.0}
    assert is_better(start, start | {"knn_top1": 0.51, "retrieval_map": 0.1})
    assert is_better(start, start | {"retrieval_map": 0.21})
    assert not is_better(start, start | {"rankme": 20.0})
    perfect = {"knn_top1": 1.0, "retrieval_map": 1.0}
    assert is_better(perfect, perfect)  # no better is possible
    assert not is_better(perfect, perfect | {"knn_top1": 0.9})
    assert is_better({"rankme": 1.0}, {"rankme": 0.5})  # without labels nothing is known


@pytest.mark.parametrize(
    ("pretrained", "advice"), [(True, "the plugin ppssl.Anchor"), (False, "pretrained weights")]
)
def test_a_warning_says_what_to_try(
    pretrained: bool, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start, end = {"knn_top1": 0.562, "rankme": 40.0}, {"knn_top1": 0.398, "rankme": 41.5}
    with pytest.warns(UserWarning, match=f"not better than it began. Try .*{advice}"):
        report_start_and_end(start, end, 12, pretrained=pretrained)
    shown = capsys.readouterr().out
    for text in ("56.2", "39.8", "-16.4", "40.0", "41.5", "+1.5"):
        assert text in shown
    assert "mAP" not in shown


def test_the_whole_validation_is_run_before_the_first_step(
    tmp_path: Path, image_folder: Path
) -> None:
    trainer = _trainer(tmp_path, num_sanity_val_steps=1, max_epochs=1)
    trainer.fit(_model(), _data(image_folder))
    assert trainer.num_sanity_val_steps == math.inf
