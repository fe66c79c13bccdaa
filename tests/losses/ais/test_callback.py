import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader

from ppssl import AIS, PPSSL, FolderDataModule, UserError, load_encoder
from ppssl.losses.ais.callback import AISCallback
from ppssl.losses.contrastive import MoCo
from ppssl.text.bank import TextBank
from ppssl.text.corpus import TextCorpus

SENTENCES = ["red", "green", "blue", "a bill"]


def _model(plugins: dict[str, Any] | None = None) -> PPSSL:
    torch.manual_seed(0)
    small = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}, "lr": 0.05}
    return PPSSL(**small, contrastive=MoCo(dim=8), plugins=plugins)


def _fit(folder: Path, images: Path, model: PPSSL, **kwargs: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "logger": CSVLogger(folder),
        "callbacks": [],
    }
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", **quiet | settings | kwargs)
    data = FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, val_fraction=0.25
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return trainer


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(SENTENCES))
    return str(path)


@pytest.fixture
def trained(
    tmp_path: Path, image_folder: Path, clip_folder: Path, banks: Path, corpus: str
) -> tuple[Path, PPSSL, Trainer]:
    model = _model({"ais": AIS(corpus, teacher=str(clip_folder))})
    callback = AISCallback(every_n_epochs=2, num_images=3)
    return tmp_path, model, _fit(tmp_path, image_folder, model, callbacks=[callback])


def test_what_is_logged(trained: tuple[Path, PPSSL, Trainer]) -> None:
    folder, _, trainer = trained
    logged = trainer.logged_metrics
    names = ("entropy_teacher", "entropy_student", "tau_student", "agreement", "corpus_in_use")
    for name in names:
        assert 0 <= logged[f"train/ais_{name}"] <= 1
    assert logged["train/ais_corpus_in_use"] * len(SENTENCES) in (1, 2, 3, 4)
    assert "train/loss_ais" in logged
    figures = list(folder.rglob("figures/*.png"))
    assert [path.name for path in figures] == ["ais-descriptions-000006.png"]
    picture = np.asarray(Image.open(figures[0]).convert("L"))
    assert picture.std() > 10  # something is drawn


def test_tensorboard_gets_the_figure(
    tmp_path: Path, image_folder: Path, clip_folder: Path, banks: Path, corpus: str
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = _model({"ais": AIS(corpus, teacher=str(clip_folder))})
    logger = TensorBoardLogger(tmp_path / "tb")
    _fit(
        tmp_path,
        image_folder,
        model,
        logger=logger,
        callbacks=[AISCallback(every_n_epochs=1, num_images=1)],
    )
    events = EventAccumulator(logger.log_dir).Reload()
    assert [event.step for event in events.Images("ais/descriptions")] == [3, 6]


def test_the_teacher_is_gone_while_training(
    tmp_path: Path, image_folder: Path, clip_folder: Path, banks: Path, corpus: str
) -> None:
    from lightning.pytorch import Callback
    from transformers import CLIPModel

    alive: list[int] = []

    class Watch(Callback):
        def on_train_start(self, *args: Any) -> None:
            gc.collect()
            alive.append(sum(isinstance(o, CLIPModel) for o in gc.get_objects()))

    gc.collect()
    before = sum(isinstance(o, CLIPModel) for o in gc.get_objects())
    _fit(
        tmp_path,
        image_folder,
        _model({"ais": AIS(corpus, teacher=str(clip_folder))}),
        callbacks=[Watch()],
    )
    assert alive == [before]


def test_a_checkpoint_differs_by_the_head_only(
    trained: tuple[Path, PPSSL, Trainer], image_folder: Path
) -> None:
    folder, _, _ = trained
    (folder / "plain").mkdir()
    _fit(folder / "plain", image_folder, _model())
    with_ais, plain = (
        torch.load(path, weights_only=True)
        for path in (folder / "last.ckpt", folder / "plain" / "last.ckpt")
    )
    more = with_ais["state_dict"].keys() - plain["state_dict"].keys()
    assert more == {
        "plugins.ais.student.projection.0.weight",
        "plugins.ais.student.projection.0.bias",
        "plugins.ais.student.log_temperature",
    }
    assert not plain["state_dict"].keys() - with_ais["state_dict"].keys()
    for name in with_ais["state_dict"]:
        assert not any(word in name for word in ("teacher", "clip", "bank"))
    states = [len(c["optimizer_states"][0]["state"]) for c in (with_ais, plain)]
    assert states[0] - states[1] == 3


WITHOUT_TRANSFORMERS = """
import sys
import torch
import lightning.pytorch  # torchmetrics, below it, imports transformers wherever it is installed
for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
    del sys.modules[name]
sys.modules["transformers"] = None  # from here on any import of it raises
from ppssl import PPSSL, load_encoder
model = PPSSL.load_from_checkpoint(sys.argv[1]).eval()
encoder = load_encoder(sys.argv[1])
x = torch.randn(2, 3, 32, 32)
with torch.no_grad():
    torch.testing.assert_close(model(x), encoder(x))
print(sorted(model.plugins), model.plugins["ais"].student.temperature.item())
"""


@pytest.mark.slow
def test_it_loads_without_transformers(trained: tuple[Path, PPSSL, Trainer]) -> None:
    folder, model, _ = trained
    command = [sys.executable, "-c", WITHOUT_TRANSFORMERS, str(folder / "last.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tau = model.plugins["ais"].student.temperature.item()
    assert done.stdout.split() == ["['ais']", str(tau)]


def test_describe_from_a_checkpoint(trained: tuple[Path, PPSSL, Trainer]) -> None:
    folder, model, _ = trained
    images = torch.randn(2, 3, 32, 32)
    loaded = PPSSL.load_from_checkpoint(folder / "last.ckpt").eval()
    said = loaded.describe(images, k=2)
    assert [len(pairs) for pairs in said] == [2, 2]
    assert {text for pairs in said for text, _ in pairs} <= set(SENTENCES)
    assert said == model.eval().describe(images, k=2)
    with pytest.raises(UserError, match="Only a model trained with AIS"):
        _model().describe(images)


def test_again_from_the_bank_alone(
    tmp_path: Path, image_folder: Path, clip_folder: Path, banks: Path, corpus: str
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    runs = []
    for run in ("a", "b"):
        model = _model({"ais": AIS(corpus, teacher=str(folder))})
        (tmp_path / run).mkdir()
        _fit(tmp_path / run, image_folder, model)
        runs.append(model.state_dict())
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in runs[0].items():
        assert value.equal(runs[1][name]), name


def test_weight_zero_is_the_run_without(
    tmp_path: Path, image_folder: Path, clip_folder: Path, banks: Path, corpus: str
) -> None:
    states = []
    for name, plugins in (
        ("a", None),
        ("b", {"ais": AIS(corpus, teacher=str(clip_folder), loss_weight=0)}),
    ):
        model = _model(plugins)
        (tmp_path / name).mkdir()
        _fit(tmp_path / name, image_folder, model)
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert states[1][name].equal(value), name


def test_resumed_state_of_the_callback() -> None:
    first, second = AISCallback(), AISCallback()
    first._used = {"ais": torch.tensor([True, False])}
    second.load_state_dict(first.state_dict())
    assert second._used["ais"].tolist() == [True, False]


def test_a_corpus_that_has_grown_is_counted_anew() -> None:
    model = _model({"ais": AIS("none.txt")})
    plugin: Any = model.plugins["ais"]
    texts = torch.eye(5)
    images = texts[:, None].half()
    plugin.attach(TextBank(TextCorpus(list("abcde")), texts, images, texts[0], 0, 0.1))
    plugin.last_choice = torch.tensor([4])
    callback = AISCallback()
    callback.load_state_dict({"used": {"ais": torch.tensor([True, False])}})
    callback.on_train_batch_end(None, model)  # type: ignore[arg-type]  # it needs no Trainer
    assert callback._used["ais"].tolist() == [False, False, False, False, True]


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`top` must be >= 1, got 0"):
        AISCallback(top=0)


def test_other_loaders_are_refused(
    tmp_path: Path, corpus: str, clip_folder: Path, banks: Path
) -> None:
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    loader: Any = DataLoader(torch.zeros(4, 3))
    with pytest.raises(UserError, match="train with a data module of ppssl"):
        trainer.fit(_model({"ais": AIS(corpus, teacher=str(clip_folder))}), loader)


def test_validation_needs_no_bank(
    trained: tuple[Path, PPSSL, Trainer], image_folder: Path, banks: Path
) -> None:
    folder, _, _ = trained
    shutil.rmtree(banks)
    model = PPSSL.load_from_checkpoint(folder / "last.ckpt")
    data = FolderDataModule(
        str(image_folder), image_size=32, batch_size=8, num_workers=0, val_fraction=0.25
    )
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False
    )
    assert trainer.validate(model, data)[0].keys() >= {"val/knn_top1"}
    assert not banks.exists()
    assert load_encoder(folder / "last.ckpt")(torch.zeros(1, 3, 32, 32)).shape == (1, 32)
