"""What only draws or measures and fails: one warning, and the training goes on."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn

from ppssl import AIS, IADM, PPSSL, FineTune, FolderDataModule, MoCo, RunCheckpoint
from ppssl.callbacks.classification import ClassificationMonitor
from ppssl.callbacks.diagnostics import diagnostic
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.losses.ais.callback import AISCallback
from ppssl.losses.iadm.callback import IADMCallback

SMALL: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


def _fails(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def _ppssl(clip_folder: Path) -> PPSSL:
    torch.manual_seed(0)
    plugins = {"ais": AIS("birds", teacher=str(clip_folder)), "iadm": IADM(start=0, full=0)}
    return PPSSL(**SMALL, lr=0.05, contrastive=MoCo(dim=8), plugins=plugins)


def _data(images: Path, batch_size: int = 8) -> FolderDataModule:
    return FolderDataModule(
        str(images), image_size=32, batch_size=batch_size, num_workers=0, val_fraction=0.25
    )


def _fit(model: Any, data: Any, folder: Path, *callbacks: Callback) -> Trainer:
    few: dict[str, int] = {"every_n_epochs": 1, "num_images": 1}  # a panel takes its time
    drawn: list[Callback] = [AISCallback(**few), IADMCallback(**few)]
    monitor = RepresentationMonitor(every_n_epochs=1)
    drawn += [monitor] if isinstance(model, PPSSL) else [ClassificationMonitor(every_n_epochs=1)]
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*drawn, RunCheckpoint(dirpath=folder), *callbacks],
    )
    trainer.fit(model, data)
    return trainer


def _left_out(warned: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in warned if "and the training goes on" in str(w.message)]


LEFT_OUT = {
    "ppssl.losses.iadm.callback.saliency_panel": "IADMCallback leaves out the figure of `iadm`",
    "ppssl.losses.iadm.callback.saliency_health": "IADMCallback leaves out the quality of the",
    "ppssl.losses.ais.callback.description_panel": "AISCallback leaves out the figure of `ais`",
    "ppssl.callbacks.monitor.report_start_and_end": "RepresentationMonitor leaves out the com",
}


@pytest.mark.parametrize(
    "places",
    [
        LEFT_OUT,  # each beside the others, and without what only follows it
        {"ppssl.callbacks.monitor.RetrievalMetrics": "RepresentationMonitor leaves out kNN and"},
    ],
    ids=["figures and more", "kNN"],
)
def test_a_pretraining_goes_on(
    places: dict[str, str],
    image_folder: Path,
    clip_folder: Path,
    banks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    for place in places:
        monkeypatch.setattr(place, _fails(RuntimeError("an odd map\nof two lines")))
    trainer = _fit(_ppssl(clip_folder), _data(image_folder), tmp_path)
    assert trainer.current_epoch == 2
    assert (tmp_path / "last.ckpt").exists()
    lines = _left_out(recwarn)
    assert len(lines) == len(places)  # once each, in two epochs
    for message in places.values():
        (line,) = [line for line in lines if line.startswith(message)]
        assert "RuntimeError: an odd map of two lines (test_diagnostics.py, line " in line


@pytest.mark.parametrize("name", ["confusion_panel", "ClassificationMetrics.compute"])
def test_a_classifiers_training_goes_on(
    name: str,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    place = f"ppssl.callbacks.classification.{name}"
    monkeypatch.setattr(place, _fails(ValueError("no")))
    _fit(FineTune(**SMALL), _data(image_folder), tmp_path)
    assert len(_left_out(recwarn)) == 1
    assert (tmp_path / "last.ckpt").exists()
    with pytest.raises(ValueError, match="no"):  # asked for, not beside a training
        Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(
            FineTune.load_from_checkpoint(tmp_path / "last.ckpt"), _data(image_folder)
        )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FineTune, "ClassificationMonitor leaves out accuracies"),
        (PPSSL, "RepresentationMonitor leaves out kNN and retrieval"),
    ],
)
def test_no_values_of_a_part_of_the_images(
    model: Any, message: str, image_folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """After an error in one batch nothing is logged of the others."""

    class Once(Callback):
        def on_validation_batch_start(
            self, trainer: Trainer, module: Any, batch: Any, batch_idx: int, *args: Any
        ) -> None:
            if batch_idx == 0:
                batch.pop("index")

    data = _data(image_folder, batch_size=2)
    trainer = _fit(model(**SMALL, lr=0.01), data, tmp_path, Once())
    assert not [name for name in trainer.callback_metrics if name.startswith("val/")]
    (line,) = _left_out(recwarn)
    assert line.startswith(message)


def test_the_checkpoint_comes_before_the_figure(
    image_folder: Path, clip_folder: Path, banks: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Also if the figure ends the training: without memory nothing else works."""
    place = "ppssl.losses.ais.callback.description_panel"
    monkeypatch.setattr(place, _fails(MemoryError("none left")))
    with pytest.raises(MemoryError, match="none left"):
        _fit(_ppssl(clip_folder), _data(image_folder), tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_errors_of_other_callbacks_are_raised(image_folder: Path, tmp_path: Path) -> None:
    class Mine(Callback):
        def on_train_epoch_end(self, *args: Any) -> None:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        _fit(PPSSL(**SMALL, lr=0.05), _data(image_folder), tmp_path, Mine())


def _trainer(processes: int = 1, fn: TrainerFn = TrainerFn.FITTING) -> Any:
    return SimpleNamespace(world_size=processes, state=SimpleNamespace(fn=fn))


@pytest.mark.parametrize(
    ("error", "trainer", "collective"),
    [
        (KeyboardInterrupt(), _trainer(), False),
        (SystemExit(), _trainer(), False),
        (MemoryError(), _trainer(), False),
        (torch.OutOfMemoryError("full"), _trainer(), False),
        (torch.AcceleratorError("device-side assert"), _trainer(), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), _trainer(), False),
        (RuntimeError("one process alone"), _trainer(2), True),
        (RuntimeError("asked for"), _trainer(1, TrainerFn.VALIDATING), False),
        (RuntimeError("asked for"), _trainer(1, TrainerFn.TESTING), False),
    ],
)
def test_what_is_raised(error: BaseException, trainer: Any, collective: bool) -> None:
    with pytest.raises(type(error)), diagnostic(Callback(), trainer, "x", collective=collective):
        raise error


@pytest.mark.parametrize(("processes", "collective"), [(1, False), (1, True), (2, False)])
def test_what_is_warned_of_once_each(
    processes: int, collective: bool, recwarn: pytest.WarningsRecorder
) -> None:
    callback = Callback()
    for i, what in enumerate("aab"):
        with diagnostic(callback, _trainer(processes), what, collective=collective):
            raise ValueError(i)
    assert [line.split("out ")[1][0] for line in _left_out(recwarn)] == ["a", "b"]
