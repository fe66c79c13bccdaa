"""Descriptions by a checkpoint alone: without data set, bank, corpus file and teacher."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import layouts
from ppssl import AIS, PPSSL, FolderDataModule
from ppssl.losses.contrastive import MoCo
from ppssl.text.metadata import METADATA_CORPORA
from ppssl.utils.errors import UserError

FROM_THE_DATA = ("class-names", *METADATA_CORPORA)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture
def teacher(tmp_path: Path, clip_folder: Path) -> Path:
    """A CLIP that the test may remove."""
    return Path(shutil.copytree(clip_folder, tmp_path / "clip"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders with the names of Cars, and beside them what CUB and Aircraft say of theirs."""
    root = layouts.class_folders(tmp_path / "set", layouts.MODELS)
    layouts.cub(root)
    layouts.aircraft(root)
    (root / "corpus.txt").write_text("red\ngreen\nblue\n")
    return root


def _model(**kwargs: Any) -> PPSSL:
    torch.manual_seed(0)
    small: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    return PPSSL(**small, lr=0.05, contrastive=MoCo(dim=8), plugins={"ais": AIS(**kwargs)})


def _fit(model: PPSSL, root: Path, out: Path, ckpt: Path | None = None, steps: int = 1) -> Path:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(**quiet, max_steps=steps, limit_val_batches=0)
    data = FolderDataModule(str(root), image_size=32, batch_size=4, num_workers=0)
    trainer.fit(model, data, ckpt_path=ckpt)
    trainer.save_checkpoint(out)
    return out


@pytest.mark.parametrize("whiten", [None, pytest.param(0.01, marks=pytest.mark.slow)])
@pytest.mark.parametrize("corpus", [*FROM_THE_DATA, "birds", "file"])
def test_a_checkpoint_describes_by_itself(
    corpus: str, whiten: float | None, root: Path, teacher: Path, banks: Path, tmp_path: Path
) -> None:
    name = str(root / "corpus.txt") if corpus == "file" else corpus
    model = _model(corpus=name, teacher=str(teacher), whiten=whiten)
    path = _fit(model, root, tmp_path / "a.ckpt")
    titles, said = model.plugins["ais"].targets.titles, model.eval().describe(IMAGES)
    for place in (root, teacher, banks):
        shutil.rmtree(place)

    held = torch.load(path, weights_only=True)["ppssl"]["sizes"]["ais"]
    assert held["titles"] == titles
    assert held["texts"].dtype == torch.float16
    assert held["texts"].shape == (len(titles), held["teacher_dim"])
    loaded = PPSSL.load_from_checkpoint(path).eval()
    assert loaded.describe(IMAGES) == said
    assert {text for row in said for text, _ in row} <= set(titles)
    assert not banks.exists()


def test_what_it_says_is_what_the_student_was_trained_on(
    root: Path, teacher: Path, banks: Path, tmp_path: Path
) -> None:
    """Also of a control, whose embeddings no bank has."""
    model = _model(corpus="class-names", teacher=str(teacher), control="rotated_texts")
    _fit(model, root, tmp_path / "a.ckpt")
    plugin: Any = model.eval().plugins["ais"]
    with torch.no_grad():
        q = plugin.student_sees(model(IMAGES), plugin.targets.texts)
    best = [row[0] for row in model.describe(IMAGES)]
    assert [title for title, _ in best] == [plugin.targets.titles[i] for i in q.argmax(dim=1)]
    assert [p for _, p in best] == pytest.approx(q.amax(dim=1).tolist(), abs=1e-3)


@pytest.fixture
def earlier(root: Path, teacher: Path, banks: Path, tmp_path: Path, request: Any) -> Path:
    """A checkpoint without titles and texts, of the corpus that the test is parametrised with."""
    path = _fit(_model(corpus=request.param, teacher=str(teacher)), root, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    del content["ppssl"]["sizes"]["ais"]["titles"], content["ppssl"]["sizes"]["ais"]["texts"]
    torch.save(content, path)
    return path


@pytest.mark.parametrize("earlier", FROM_THE_DATA, indirect=True)
def test_earlier_checkpoints_ask_for_the_descriptions(earlier: Path) -> None:
    loaded = PPSSL.load_from_checkpoint(earlier).eval()
    with pytest.raises(UserError, match=r"comes from the data set, .* give the descriptions"):
        loaded.describe(IMAGES)
    with pytest.raises(UserError, match="2 to 50,000 different descriptions"):
        loaded.describe(IMAGES, [])
    assert {text for row in loaded.describe(IMAGES, ["a", "b"]) for text, _ in row} == {"a", "b"}


@pytest.mark.parametrize("earlier", ["birds"], indirect=True)
def test_earlier_checkpoints_find_other_corpora(earlier: Path) -> None:
    assert [len(row) for row in PPSSL.load_from_checkpoint(earlier).describe(IMAGES, k=2)] == [2, 2]


@pytest.mark.parametrize("loaded", [False, True])
def test_a_resumed_run_keeps_its_own_corpus(
    loaded: bool, root: Path, teacher: Path, banks: Path, tmp_path: Path
) -> None:
    """Of as many descriptions, with its whitening; not that of the checkpoint."""
    corpus = root / "corpus.txt"
    settings: dict[str, Any] = {"corpus": str(corpus), "teacher": str(teacher), "whiten": 0.01}
    path = _fit(_model(**settings), root, tmp_path / "a.ckpt")
    corpus.write_text("wing\ntail\nbill\n")
    model = PPSSL.load_from_checkpoint(path) if loaded else _model(**settings)
    with pytest.warns(UserWarning, match="3 descriptions of the corpus .* are not the 3 that"):
        resumed = _fit(model, root, tmp_path / "b.ckpt", None if loaded else path, steps=2)
    titles = torch.load(resumed, weights_only=True)["ppssl"]["sizes"]["ais"]["titles"]
    assert titles == ["wing", "tail", "bill"]
    own, again = model.eval().describe(IMAGES), model.describe(IMAGES, titles)
    for row, other in zip(own, again, strict=True):
        assert [title for title, _ in row] == [title for title, _ in other]
        assert [p for _, p in row] == pytest.approx([p for _, p in other], abs=1e-3)
