import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ppssl import UserError
from ppssl.text.teachers.clip import CLIPTeacher
from ppssl.text.teachers.load import load_teacher, teacher_fingerprint
from tiny import tiny_siglip


def _images(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (30, 40 + i, 3), np.uint8)) for i in range(n)]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clip_folder: Path
) -> Path:
    if request.param == "clip":
        return clip_folder
    return tiny_siglip(tmp_path_factory.mktemp("teacher") / "siglip")


def test_equals_the_model_itself(folder: Path) -> None:
    """Its own logits are exp(logit_scale) times the cosines (plus SigLIP's bias)."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    teacher, images, texts = load_teacher(str(folder)), _images(3), ["a red bill", "tail"]
    model = AutoModel.from_pretrained(folder).eval()
    padding = "max_length" if model.config.model_type == "siglip" else True
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding=padding, max_length=16, truncation=True, return_tensors="pt"
    )
    pixels = AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image - getattr(model, "logit_bias", 0)
    v = teacher.embed_images(torch.stack([teacher.transform(image) for image in images]))
    cosines = v @ teacher.embed_texts(texts).T
    torch.testing.assert_close(cosines / teacher.temperature, logits, atol=1e-4, rtol=1e-4)
    assert v.shape == (3, teacher.dim)


def test_batching_changes_nothing(folder: Path) -> None:
    teacher = load_teacher(str(folder))
    pixels = torch.stack([teacher.transform(image) for image in _images(4)])
    alone = torch.cat([teacher.embed_images(x[None]) for x in pixels])
    torch.testing.assert_close(teacher.embed_images(pixels), alone)
    texts = ["a", "much longer", "b b"] * 100  # more than one batch, padded differently
    together = teacher.embed_texts(texts)
    torch.testing.assert_close(
        together[:3], torch.cat([teacher.embed_texts([t]) for t in texts[:3]])
    )
    torch.testing.assert_close(together[-3:], together[:3])


def test_views_go_through_its_normalisation(folder: Path) -> None:
    teacher = load_teacher(str(folder))
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    pixels = teacher.transform(image)[None]
    view = torch.tensor([200, 100, 50]).view(1, 3, 1, 1).expand(1, 3, 8, 8) / 255
    torch.testing.assert_close(
        teacher.embed_views(view), teacher.embed_images(pixels), atol=1e-4, rtol=1e-3
    )


def test_limit_and_pickling(folder: Path) -> None:
    teacher = load_teacher(str(folder))
    assert teacher.fits("short")
    assert not teacher.fits("a text of far more than sixteen letters, which are its tokens")
    transform = pickle.loads(pickle.dumps(teacher.transform))
    torch.testing.assert_close(transform(_images(1)[0]), teacher.transform(_images(1)[0]))
    assert len(pickle.dumps(teacher.transform)) < 100_000
    one = F.normalize(teacher.embed_texts(["x"]), dim=1)
    torch.testing.assert_close(teacher.to("cpu").embed_texts(["x"]), one)


def test_fingerprint_follows_the_files(clip_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    assert teacher_fingerprint(str(copy)) == teacher_fingerprint(str(clip_folder))
    (copy / "README.md").write_text("a note")
    assert teacher_fingerprint(str(copy)) == teacher_fingerprint(str(clip_folder))
    (copy / "merges.txt").write_text("#version: 0.2\na b\n")
    assert teacher_fingerprint(str(copy)) != teacher_fingerprint(str(clip_folder))
    assert teacher_fingerprint("some/where-else") is None
    assert teacher_fingerprint("/no/such/folder of mine") is None


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "config.json", "preprocessor_config.json"]
)
def test_incomplete_folders(clip_folder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(clip_folder, tmp_path / "copy")
    (tmp_path / "copy" / missing).unlink()
    with pytest.raises(UserError, match=r"`teacher`: cannot read `.*copy` \(.*Give a folder"):
        CLIPTeacher(str(tmp_path / "copy"))


def test_pickled_weights_are_not_read(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "copy" / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot read"):
        CLIPTeacher(str(tmp_path / "copy"))


def test_other_models_are_refused(tmp_path: Path) -> None:
    for kind in ("bert", "siglip2"):  # the latter has no fixed size
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(UserError, match=f"one of clip, siglip, got .*which is a `{kind}`"):
            CLIPTeacher(str(tmp_path))
    with pytest.raises(UserError, match="cannot read `no/such-model`"):
        CLIPTeacher("no/such-model")
