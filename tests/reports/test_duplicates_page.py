"""``ppssl duplicates``: equal files and nearly equal images, across splits, as table, page and JSON."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ppssl import PPSSL, FolderDataModule, duplicates
from ppssl.cli.main import main
from ppssl.inference.duplicates import Duplicate, with_equal_files
from ppssl.inference.embeddings import Embeddings
from reports.conftest import NAMES


@pytest.fixture
def planted(images: Path, tmp_path: Path) -> Path:
    """The images, with a copy in another split, one in another class, and one saved as JPEG."""
    root = tmp_path / "images"
    shutil.copytree(images, root)
    shutil.copy(root / "train" / NAMES[0] / "3.png", root / "test" / NAMES[0] / "copy.png")
    shutil.copy(root / "train" / "class1" / "4.png", root / "train" / "class2" / "wrong.png")
    image = Image.open(root / "train" / "class1" / "5.png")
    image.save(root / "test" / "class1" / "again.jpg", quality=95)
    return root


def _data(root: Path) -> FolderDataModule:
    return FolderDataModule(str(root), image_size=32, batch_size=8, num_workers=0)


def test_planted_duplicates_are_found(planted: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PPSSL("resnet_small", backbone_kwargs={"width": 4})
    page = tmp_path / "page.html"
    found = duplicates(model, _data(planted), out=page, device="cpu")
    listed = {
        (Path(pair.first.name).name, Path(pair.second.name).name): (
            pair.exact,
            pair.crosses,
            pair.two_labels,
        )
        for pair in found
    }
    assert listed[("3.png", "copy.png")] == (True, True, False)
    assert listed[("4.png", "wrong.png")] == (True, False, True)
    assert listed[("5.png", "again.jpg")] == (False, True, False)
    assert sum(pair.exact for pair in found) == 2
    assert [pair.exact for pair in found] == sorted((pair.exact for pair in found), reverse=True)
    text = page.read_text()
    assert text.count("<figure>") == 2 * len(found)
    assert "2 pairs with equal pixels" in " ".join(text.split())
    assert "in two splits" in text
    assert "with two labels" in text
    assert not re.search(r"https?://", text)


def test_the_command(run: Path, planted: Path, tmp_path: Path, capsys: Any) -> None:
    (checkpoint,) = run.rglob("last.ckpt")
    out, written = tmp_path / "page.html", tmp_path / "pairs.json"
    options = ["--data", "ppssl:folder/pretrain", f"--data.root={planted}", "--data.num_workers=0"]
    options += ["--data.image_size=32", "--out", str(out), "--json", str(written)]
    assert main(["duplicates", str(checkpoint), *options]) == 0
    pairs = json.loads(written.read_text())["pairs"]
    crossing = [pair for pair in pairs if pair["exact"] and pair["crosses"]]
    assert [Path(pair["second"]["name"]).name for pair in crossing] == ["copy.png"]
    assert crossing[0]["first"]["split"] == "train"
    assert crossing[0]["second"]["class_name"] == NAMES[0]
    assert crossing[0]["similarity"] == pytest.approx(1, abs=1e-5)
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 pairs of equal" in shown
    assert out.is_file()


def test_a_data_set_without_duplicates(images: Path, tmp_path: Path) -> None:
    model = PPSSL("resnet_small", backbone_kwargs={"width": 4})
    page = tmp_path / "page.html"
    assert duplicates(model, _data(images), out=page, device="cpu") == []
    assert "None was found." in page.read_text()


def test_groups_of_equal_files_are_added_to_the_pairs() -> None:
    """Those that embeddings missed too; a file that cannot be read is left out."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    images = Embeddings(features, torch.zeros(4, dtype=torch.int64), torch.tensor([2, 4, 6, 9]))
    near = [Duplicate(4, 9, 0.8, exact=False), Duplicate(2, 6, 1.0, exact=False)]
    found = with_equal_files(near, [(2, 6, 9), (3, 4)], images)
    pairs = [(pair.first, pair.second, pair.exact) for pair in found]
    assert pairs == [(2, 6, True), (2, 9, True), (4, 9, False)]
    assert [pair.similarity for pair in found] == pytest.approx([1.0, 0.6, 0.8])
