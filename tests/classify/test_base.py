"""What a classifier says on the command line of checkpoints and data that do not go together."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from command_line import TINY, error_line
from ppssl import PPSSL, FineTune, FolderDataModule, LinearProbe, UserError
from ppssl.cli.main import main
from ppssl.losses.contrastive import MoCo

RECIPE = Path(__file__).parents[2] / "experiments" / "folder" / "finetune.yaml"
SMALL = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "limit_val_batches": 0,
    "max_steps": 1,
}
DATA: dict[str, Any] = {"image_size": 32, "batch_size": 6, "num_workers": 0}


def _images(root: Path, classes: tuple[str, ...]) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images of three classes, and checkpoints of a pretrained encoder and of a classifier of them."""
    root = tmp_path_factory.mktemp("classifier")
    images = _images(root / "images", ("a", "b", "c"))
    data = FolderDataModule(str(images), **DATA)
    for name, model in (
        ("encoder", PPSSL(**SMALL, contrastive=MoCo(dim=8))),
        ("classifier", FineTune(**SMALL)),
    ):
        trainer = Trainer(default_root_dir=root, **QUIET)
        trainer.fit(model, data)
        trainer.save_checkpoint(root / f"{name}.ckpt")
    return {path.stem: path for path in root.iterdir()}


def _arguments(command: str, images: Path, out: Path, *more: str) -> list[str]:
    root = ["--data.root", str(images), "--trainer.default_root_dir", str(out)]
    return [command, "--config", str(RECIPE), *root, *TINY, "--trainer.logger=false", *more]


def _said(capsys: Any, *arguments: Any) -> str:
    assert main(_arguments(*arguments)) == 2
    return error_line(capsys)


def test_weights_that_are_not_there_torn_or_of_another_architecture(
    made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    def said(path: Path, *more: str) -> str:
        return _said(capsys, "fit", made["images"], tmp_path, f"--model.pretrained={path}", *more)

    assert "no such file" in said(tmp_path / "none.ckpt")
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    assert "cannot be read as weights" in said(tmp_path / "notes.ckpt")
    torn = made["encoder"].read_bytes()
    (tmp_path / "torn.ckpt").write_bytes(torn[: len(torn) // 2])
    assert "cannot be read as weights" in said(tmp_path / "torn.ckpt")
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "no-weights.pth")
    assert "holds no weights by name" in said(tmp_path / "no-weights.pth")
    line = said(made["encoder"], "--model.backbone_kwargs={width: 8}")
    assert "do not fit the backbone: " in line
    assert "of another shape: " in line
    assert "Give the `backbone`, `image_size` and `backbone_kwargs` that they were trained" in line
    (tmp_path / "weights.safetensors").write_bytes(b"")
    line = said(tmp_path / "weights.safetensors", "--model.backbone=null")
    assert "holds weights only. Give the timm model" in line


def test_a_checkpoint_of_pretraining_is_no_classifier(
    made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    line = _said(capsys, "test", made["images"], tmp_path, f"--ckpt_path={made['encoder']}")
    assert "is of a `PPSSL`, not of a classifier" in line
    assert "--model.pretrained" in line


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (
            ("a", "b"),
            "2 classes of the data set differ from the 3 classes of the classifier (the data set lacks c)",
        ),
        (("a", "b", "d"), "(the data set lacks c; the classifier lacks d)"),
    ],
)
def test_classes_that_differ(
    classes: tuple[str, ...], told: str, made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    """Also where there are as many, which would otherwise be measured as if they were the same."""
    other = _images(tmp_path / "images", classes)
    line = _said(capsys, "test", other, tmp_path, f"--ckpt_path={made['classifier']}")
    assert told in line
    assert "`--model.pretrained path/to/last.ckpt`" in line
    assert told in _said(capsys, "fit", other, tmp_path, f"--resume={made['classifier']}")


def test_no_labels(made: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(made["images"].rglob("*.png"))):
        shutil.copy(path, flat / f"{i}.png")
    assert "Nothing to learn: no training image has a label" in _said(capsys, "fit", flat, tmp_path)
    ckpt = f"--ckpt_path={made['classifier']}"
    line = _said(capsys, "validate", flat, tmp_path, ckpt)
    assert "Nothing to compare with: no training image has a label" in line
    # They are classified all the same.
    assert main(_arguments("predict", flat, tmp_path, ckpt)) == 0
    assert "give its checkpoint with `--ckpt_path" in _said(capsys, "predict", flat, tmp_path)


def test_test_images_without_labels_are_no_accuracy(made: dict[str, Path], tmp_path: Path) -> None:
    images = shutil.copytree(made["images"], tmp_path / "images")
    for path in sorted((images / "test").rglob("*.png")):
        path.rename(images / "test" / f"{path.parent.name}-{path.name}")
    trainer = Trainer(default_root_dir=tmp_path, **QUIET)
    model = FineTune.load_from_checkpoint(made["classifier"])
    with pytest.warns(UserWarning, match="No test image has a label"):
        assert trainer.test(model, FolderDataModule(str(images), **DATA), verbose=False) == [{}]


def test_the_number_of_classes_alone_takes_their_names_from_a_checkpoint(
    made: dict[str, Path],
) -> None:
    model = FineTune.load_from_checkpoint(made["classifier"], num_classes=3)
    assert model.classes == ["a", "b", "c"]


def test_a_loss_that_is_not_finite_stops_with_its_step(
    made: dict[str, Path], tmp_path: Path
) -> None:
    model = LinearProbe(**SMALL, lr=1e38, seed=0)
    trainer = Trainer(default_root_dir=tmp_path, **QUIET | {"max_steps": 50})
    with pytest.raises(UserError, match=r"The loss is (nan|inf) at step \d+, epoch \d+.*images \["):
        trainer.fit(model, FolderDataModule(str(made["images"]), **DATA))


@pytest.mark.parametrize(("lr", "said"), [(1e4, True), (1e-3, False)])
def test_a_linear_layer_that_has_not_converged_says_so(
    made: dict[str, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder, lr: float, said: bool
) -> None:
    model = LinearProbe(pretrained=str(made["encoder"]), lr=lr, seed=0)
    trainer = Trainer(default_root_dir=tmp_path, **QUIET | {"max_steps": 6})
    trainer.fit(model, FolderDataModule(str(made["images"]), **DATA))
    warned = [str(w.message) for w in recwarn if "has not converged" in str(w.message)]
    assert [f"a guess has {np.log(3):.3g}" in text for text in warned] == [True] * said
