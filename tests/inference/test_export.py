"""What is written is read by the other library alone, in a process of its own."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Trainer
from PIL import Image
from transformers import AutoImageProcessor

from ppssl import (
    PPSSL,
    FolderDataModule,
    MoCo,
    UserError,
    export,
    load_encoder,
    load_transform,
)
from ppssl.checkpointing.view import View
from ppssl.inference.model_card import model_card
from ppssl.inference.preprocessing import Preprocessing

RESNET = {"backbone": "resnet18"}
MAX = {"backbone": "resnet18", "backbone_kwargs": {"global_pool": "max"}}
GEM = {"global_pool": "gem"}
VIT = {
    "backbone": "vit_tiny_patch16_224",
    "image_size": 32,
    "backbone_kwargs": {"depth": 1, "embed_dim": 24, "num_heads": 2},
}


def _checkpoint(images: Path, out: Path, **kwargs: Any) -> Path:
    torch.manual_seed(0)
    data = FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=out,
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(PPSSL(**kwargs), data)
    trainer.save_checkpoint(out / "last.ckpt")
    return out / "last.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "model"),
    [
        ("timm", RESNET),
        ("timm", VIT),
        ("timm", MAX),
        ("torchvision", RESNET),
        ("hf", RESNET),
        ("hf", VIT),
    ],
)
def test_others_read_the_same_features(
    to: Any,
    model: dict[str, Any],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path, out = _checkpoint(image_folder, tmp_path, **model), tmp_path / "out"
    difference = export(path, to, "out")
    assert difference < 1e-4
    card = (out / "README.md").read_text()
    assert f"{difference:.3g}" in card
    assert "CenterCrop(32)" in card
    assert "Resize(37)" in card
    assert '"sha256"' in card
    assert str(image_folder) not in card
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    # The card's own code, in this process.
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"torch": torch}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        exec(code, names)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(names["embed"](images), load_encoder(path)(images))
    with pytest.raises(UserError, match="exists and is not empty"):
        export(path, to, out)
    if to == "hf":
        image = Image.open(next(image_folder.glob("test/*/0.png")))
        processor = AutoImageProcessor.from_pretrained(out)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, load_transform(path)(image)[None], atol=1e-5, rtol=0)
        assert "Its pixels are those of the code above" in card


@pytest.mark.slow
def test_a_folder_is_pushed_and_pulled(image_folder: Path, tmp_path: Path) -> None:
    """From the image on: timm reads the folder, its own preprocessing is ours, and a training starts from it."""
    path = _checkpoint(image_folder, tmp_path, backbone="test_resnet", contrastive=MoCo(dim=8))
    export(path, "timm", out := tmp_path / "out")
    assert {file.name for file in out.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    model: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    cfg = timm.data.resolve_model_data_config(model)
    transform: Any = timm.data.create_transform(**cfg, is_training=False)
    ours, prepare = load_encoder(path), load_transform(path)
    for file in sorted(image_folder.glob("test/*/0.png")):
        image = Image.open(file)
        with torch.inference_mode():
            theirs, expected = model(transform(image)[None]), ours(prepare(image)[None])
        torch.testing.assert_close(theirs, expected, atol=1e-6, rtol=1e-5)
        assert expected.abs().max() > 0.01
    for pulled in (
        PPSSL("test_resnet", pretrained=str(out)),
        PPSSL("test_resnet", pretrained=str(out / "model.safetensors")),
    ):
        weights = pulled.encoder.model.state_dict()
        assert all(value.equal(weights[name]) for name, value in ours.state_dict().items())


@pytest.mark.slow
def test_a_folder_that_exists_stays_the_same_folder(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the working folder, or a mount point beside which nothing can be written."""
    path = _checkpoint(image_folder, tmp_path, backbone="test_resnet")
    out = tmp_path / "closed" / "out"
    out.mkdir(parents=True)
    monkeypatch.chdir(out)
    (out / "file").write_text("")
    with pytest.raises(UserError, match="exists and is not empty"):
        export(path, "timm", ".")
    (out / "file").unlink()
    inode = out.stat().st_ino
    export(path, "timm", ".")
    assert Path.cwd() == out
    assert out.stat().st_ino == inode
    assert sorted(os.listdir()) == ["README.md", "config.json", "model.safetensors"]
    assert os.listdir(out.parent) == ["out"]


def test_the_card_names_no_path_of_the_machine() -> None:
    content = {
        "encoder": {"backbone": "resnet18", "image_size": None, "kwargs": {}},
        "model": {"class_path": "ppssl.PPSSL", "init_args": {"pretrained": "/models/x", "lr": 0.1}},
        "data": {"class_path": "ppssl.FolderDataModule", "init_args": {"root": "/home/me/birds"}},
    }
    preprocessing = Preprocessing(View(32, 0.875), (0.5,) * 3, (0.5,) * 3)
    card = model_card(content, "timm", "embed = None", preprocessing, {"commit": "abc"}, 0.0, 1.0)
    told = json.loads(card.split("```json")[1].split("```")[0])
    assert told["data"]["init_args"] == {"root": None}
    assert told["model"]["init_args"] == {"pretrained": None, "lr": 0.1}
    assert told["exported"] == {"commit": "abc"}
    assert "/home" not in card
    assert "/models" not in card


def test_what_the_others_do_not_have_is_refused(image_folder: Path, tmp_path: Path) -> None:
    own = _checkpoint(image_folder, tmp_path, backbone="resnet_small", backbone_kwargs={"width": 4})
    for library in ("timm", "torchvision", "hf"):
        with pytest.raises(
            UserError, match="part of ppssl and not of any other library: choose `--to onnx`"
        ):
            export(own, library, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    gem = _checkpoint(image_folder, tmp_path, backbone="resnet18", backbone_kwargs=GEM)
    for library in ("timm", "torchvision", "hf"):
        with pytest.raises(UserError, match="`global_pool: gem`, which no other library has"):
            export(gem, library, tmp_path / "out")
    with pytest.raises(ValueError, match="`to` must be one of timm, torchvision, hf, onnx"):
        export(own, "keras", tmp_path / "out")  # type: ignore[arg-type]


def test_a_partial_match_is_refused(image_folder: Path, tmp_path: Path) -> None:
    deep = {"stem_type": "deep", "stem_width": 8}
    path = _checkpoint(image_folder, tmp_path, backbone="resnet18", backbone_kwargs=deep)
    with pytest.raises(UserError, match=r"25 weights are missing, unexpected or .*\(bn1\.bias"):
        export(path, "torchvision", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_onnx_it_says_what_to_install(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "onnx" else installed(name, *a)
    )
    path = _checkpoint(
        image_folder, tmp_path, backbone="resnet_small", backbone_kwargs={"width": 4}
    )
    with pytest.raises(UserError, match="not installed: run `pip install onnx`"):
        export(path, "onnx", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, GEM])
def test_onnx_gives_the_same_features(
    kwargs: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    path = _checkpoint(
        image_folder, tmp_path, backbone="resnet_small", backbone_kwargs={"width": 4} | kwargs
    )
    assert export(path, "onnx", tmp_path / "out") < 1e-4


@pytest.mark.slow
def test_features_that_differ_are_not_exported(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ppssl.inference import export as module

    def disturbed(encoder: Any, *args: Any) -> None:
        whole = {k: v.clone() for k, v in encoder.state_dict().items()}
        encoder.conv1.weight.data *= 1.01
        module._write_torchvision(encoder, *args)
        encoder.load_state_dict(whole)

    path = _checkpoint(image_folder, tmp_path, **RESNET)
    monkeypatch.setitem(module.WRITERS, "torchvision", disturbed)
    with pytest.raises(UserError, match=r"Not exported: features .* differ by"):
        export(path, "torchvision", tmp_path / "out")
    assert not (tmp_path / "out").exists()
