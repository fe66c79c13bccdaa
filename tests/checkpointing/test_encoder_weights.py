"""Encoder weights from the files of other programs: nested, prefixed, beside other copies and heads."""

import argparse
import logging
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ppssl.encoder import Encoder
from ppssl.utils.errors import UserError

Weights = dict[str, Tensor]
NARROW: Any = {"channels": (8, 8, 8, 8)}
"""ResNet-18's names in a smaller file."""


def _encoder(pretrained: Path) -> Encoder:
    return Encoder("resnet18", pretrained=str(pretrained), kwargs=NARROW)


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(1)
    return dict(timm.create_model("resnet18", num_classes=0, **NARROW).state_dict())


def _under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def _other(weights: Weights) -> Weights:
    """Another copy, which must not be taken."""
    return {name: value + 1 for name, value in weights.items()}


def _head(prefix: str) -> Weights:
    return {f"{prefix}.{name}": torch.zeros(2) for name in ("0.weight", "0.bias", "2.weight")}


def _moco(w: Weights) -> Any:
    encoders = _under("module.encoder_k.", _other(w)) | _under("module.encoder_q.", w)
    queue = {"module.queue": torch.zeros(3, 5), "module.queue_ptr": torch.zeros(1)}
    heads = _head("module.encoder_q.fc") | _head("module.encoder_k.fc")
    return {"epoch": 200, "arch": "resnet18", "state_dict": encoders | heads | queue}


def _dino(w: Weights) -> Any:
    student = _under("module.backbone.", _other(w)) | _head("module.head.mlp")
    teacher = _under("backbone.", w) | _head("head.mlp")
    options = argparse.Namespace(lr=0.1, output_dir=pathlib.Path("out"))
    return {"student": student, "teacher": teacher, "args": options, "epoch": 3}


def _simsiam(w: Weights) -> Any:
    model = _under("module.encoder.", w) | _head("module.encoder.fc") | _head("module.predictor")
    return {"state_dict": model, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}}


FILES: dict[str, tuple[Callable[[Weights], Any], str | None]] = {
    "moco": (_moco, "state_dict.module.encoder_q."),
    "dino": (_dino, "teacher.backbone."),
    "simsiam": (_simsiam, "state_dict.module.encoder."),
    "torchvision": (
        lambda w: w | {"fc.weight": torch.zeros(5, 8), "fc.bias": w["bn1.bias"]},
        None,
    ),
    "torchvision reference": (lambda w: {"model": _under("module.", w)}, "model.module."),
    "timm": (lambda w: {"state_dict": _other(w), "state_dict_ema": w}, "state_dict_ema."),
    "lightly": (
        lambda w: _under("backbone.", w) | _under("backbone_momentum.", _other(w)),
        "backbone.",
    ),
    "solo-learn": (
        lambda w: {"state_dict": _under("momentum_backbone.", _other(w)) | _under("backbone.", w)},
        "state_dict.backbone.",
    ),
    "byol": (
        lambda w: _under("target_net.", _other(w)) | _under("online_net.", w),
        "online_net.",
    ),
    "transformers' TimmWrapper": (lambda w: _under("timm_model.", w), "timm_model."),
    "compiled": (lambda w: _under("_orig_mod.", w), None),
    "compiled inside": (lambda w: _under("net._orig_mod.model.", w), "net.model."),
    "without counters": (
        lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
        None,
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_weights_of_other_programs_load(
    kind: str, weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, place = FILES[kind]
    content = make(weights)
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with caplog.at_level(logging.INFO):
        encoder = _encoder(path)
    for name, value in encoder.model.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    said = [record.message for record in caplog.records if "Encoder weights" in record.message]
    assert len(said) == (place is not None)
    assert place is None or said[0].startswith(f"Encoder weights: `{place}` in {path}")
    if all(isinstance(value, Tensor) for value in content.values()):
        save_file({k: v.clone() for k, v in content.items()}, tmp_path / "model.safetensors")
        again = _encoder(tmp_path).model
        torch.testing.assert_close(again.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_copies_beside_the_one_taken_are_named(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(_moco(weights), tmp_path / "moco.pth")
    with caplog.at_level(logging.INFO):
        _encoder(tmp_path / "moco.pth")
    assert "`state_dict.module.encoder_k.` would fit too" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"net.layer9.weight": torch.zeros(1)}, "unexpected: layer9.weight"),
        (lambda w: {"net.conv1.weight": torch.zeros(2)}, "of another shape: conv1.weight"),
        (lambda w: {"net.conv1.weight": None}, "missing: conv1.weight"),
    ],
)
def test_below_a_prefix_all_must_fit_too(
    change: Callable[[Weights], Any], message: str, weights: Weights, tmp_path: Path
) -> None:
    content = _under("net.", weights) | change(weights)
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"do not fit the backbone: .*{message}"):
        _encoder(tmp_path / "other.pth")


class _Foreign:
    """Not plain data."""


def test_objects_beside_the_weights_are_named(weights: Weights, tmp_path: Path) -> None:
    torch.save({"state_dict": weights, "config": _Foreign()}, tmp_path / "object.pth")
    with pytest.raises(UserError, match=r"holds a `.*_Foreign`, which could run code; save its"):
        _encoder(tmp_path / "object.pth")
