"""A LightningDataModule of the user's own on the command line: it trains, or one line says what is missing."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ppssl import PPSSL, load_transform
from ppssl.cli.main import main
from ppssl.inference.embedding_file import read_embeddings
from ppssl.studies.parser_messages import parser_message

OWN = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class Items(Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 16

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        a, b = torch.randn(2, 3, 32, 32, generator=generator)
        kinds = {"good": {"views": [a, b], "index": i}, "views": {"views": [a, b]}}
        return kinds.get(self.kind, (a, i % 2))


class Own(LightningDataModule):
    def __init__(self, kind: str = "good", validation: str = "none", batch_size: int = 4):
        super().__init__()
        self.kind, self.validation, self.batch_size = kind, validation, batch_size

    def train_dataloader(self):
        return DataLoader(Items(self.kind), batch_size=self.batch_size)

    def val_dataloader(self):
        return [] if self.validation == "none" else DataLoader(Items(self.validation))
"""


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_data", None)


def _fit(folder: Path, *options: str) -> int:
    (folder / "recipe.yaml").write_text(
        "trainer: {max_steps: 4, enable_progress_bar: false, enable_model_summary: false}\n"
        "model: {class_path: ppssl.PPSSL, init_args: {backbone: resnet_small, lr: 0.01, "
        "backbone_kwargs: {width: 4}, contrastive: {class_path: ppssl.MoCo, init_args: {dim: 8}}}}\n"
        "data: {class_path: own_data.Own, init_args: {batch_size: 4}}\n"
    )
    command = ["fit", "--config", str(folder / "recipe.yaml")]
    return main([*command, f"--trainer.default_root_dir={folder / 'run'}", *options])


def test_it_trains_and_resumes(tmp_path: Path) -> None:
    assert _fit(tmp_path) == 0
    (path,) = (tmp_path / "run").rglob("last.ckpt")
    assert PPSSL.load_from_checkpoint(path).evaluation_view == (32, 0.875, False, None)
    assert load_transform(path)(Image.new("RGB", (50, 90))).shape == (3, 32, 32)
    assert _fit(tmp_path, "--resume=auto", "--trainer.max_steps=6") == 0
    assert len(list((tmp_path / "run").rglob("last.ckpt"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.kind=pairs"], "must be a dict with `views`.*got a list of a tensor (4, 3, 32, 3"),
        (
            ["--data.kind=views"],
            "and `index`, the numbers of the images (B,), integers; got a dict with `views`",
        ),
        (["--data.validation=pairs"], "A batch for evaluation must be a dict with `image`"),
        (["--data.kin=pairs"], "`kin` is not an option of own_data.Own (did you mean kind?)"),
        (
            ["--data=own_data.Items"],
            "`data`: Import path does not correspond to a subclass of LightningDataModule",
        ),
        (["--model=ppssl.FineTune"], "A classifier needs one of ppssl's data modules"),
        (
            ["--model.plugins.ais.corpus=birds"],
            "AIS looks up what the teacher said of an image: train with a data",
        ),
    ],
)
def test_what_is_missing_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _fit(tmp_path, *options) == 2
    error = capsys.readouterr().err
    pattern = re.escape(message).replace(re.escape(".*"), ".*")
    assert re.search(pattern, error), error
    assert "Traceback" not in error


PICTURES = """
import numpy as np
from PIL import Image
from torch.utils.data import Dataset


class Pictures(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        return Image.fromarray(pixels), i % 2


def view(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
"""

RECIPE = """
trainer: {max_steps: 2, enable_progress_bar: false, enable_model_summary: false}
model: {class_path: ppssl.PPSSL, init_args: {backbone: resnet_small, lr: 0.01, backbone_kwargs: {width: 4}}}
data:
  class_path: ppssl.DatasetDataModule
  init_args:
    train: {class_path: own_pictures.Pictures, init_args: {count: 12}}
    augmentation: own_pictures.view
    image_size: 32
    batch_size: 4
    num_workers: 0
"""


def test_a_data_set_by_its_class_in_fit_and_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its arguments have no types, as in many a script."""
    monkeypatch.chdir(tmp_path)
    Path("own_pictures.py").write_text(PICTURES)
    Path("recipe.yaml").write_text(RECIPE)
    assert main(["fit", "--config", "recipe.yaml", "--trainer.default_root_dir=run"]) == 0
    (last,) = Path("run").rglob("last.ckpt")
    out = ["--out", "embeddings.parquet"]
    assert main(["embed", str(last), "--data", "recipe.yaml", *out]) == 0
    ((embeddings, _),) = read_embeddings("embeddings.parquet")
    assert embeddings.index.tolist() == list(range(12))
    capsys.readouterr()
    Path("recipe.yaml").write_text(RECIPE.replace("count: 12", "number: 12"))
    for command in (
        ["embed", str(last), "--data", "recipe.yaml", *out],
        ["fit", "--config", "recipe.yaml"],
    ):
        assert main(command) == 2
        assert "`own_pictures.Pictures(number=12)`" in capsys.readouterr().err.splitlines()[-1]
    sys.modules.pop("own_pictures", None)


def test_that_it_is_not_null_either_is_no_reason() -> None:
    """As jsonargparse says it of a value that it parses a second time."""
    text = """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'ppssl.data.datamodule.FineGrainedDataModule'>, <class 'NoneType'>]
  Errors:
    - Parameter 'part' from 'my_module.Digits.__init__' does not specify a type
    - Expected a <class 'NoneType'>. Got value: Namespace(class_path='ppssl.DatasetDataModule')
  Given value type: <class 'jsonargparse._namespace.Namespace'>
  Given value: Namespace(class_path='ppssl.DatasetDataModule')"""
    assert "'part'" in parser_message(text)
