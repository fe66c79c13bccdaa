"""Checkpoints that are damaged or changed: refused in one line, or what is read is what was written."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppssl import PPSSL, AtomicCheckpointIO, UserError, load_encoder
from ppssl.checkpointing.files import read_checkpoint

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained model, as a Trainer writes it."""
    from lightning.pytorch import Trainer

    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    model = PPSSL("resnet_small", backbone_kwargs={"width": 2})
    model.build(8)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    model.trainer = trainer
    trainer.save_checkpoint(path)
    return path


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.equal(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return bool(a == b)


@pytest.mark.parametrize("damage", ["a bit flipped", "cut", "a block of zeros"])
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_damage_is_seen_or_changes_nothing(
    damage: str, data: st.DataObject, good: Path, tmp_path: Path
) -> None:
    content = bytearray(good.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if damage == "cut":
        del content[place:]
    elif damage == "a block of zeros":
        end = min(len(content), place + data.draw(st.sampled_from([1, 16, 512, 4096])))
        content[place:end] = bytes(end - place)
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(content)
    for read in (read_checkpoint, AtomicCheckpointIO().load_checkpoint):
        try:
            result = read(damaged)
        except UserError:
            continue
        assert _same(result, torch.load(good, weights_only=True))


def test_a_wrong_weight_is_seen_by_its_checksum(good: Path, tmp_path: Path) -> None:
    """torch itself reads the file without a word."""
    content = good.read_bytes()
    weights = torch.load(good, weights_only=True)["state_dict"]
    name, value = max(weights.items(), key=lambda item: item[1].numel())
    start = content.find(value.numpy().tobytes())
    assert start > 0
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(content[: start + 4] + bytes(8) + content[start + 12 :])
    assert not torch.load(damaged, weights_only=True)["state_dict"][name].equal(value)
    for read in (read_checkpoint, load_encoder, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match=r"damaged.ckpt cannot be read .* checksum is wrong"):
            read(damaged)


PARTS = [
    *(("ppssl",), ("state_dict",), ("ppssl", "schema_version"), ("ppssl", "model")),
    *(("ppssl", "model", "class_path"), ("ppssl", "model", "init_args"), ("ppssl", "encoder")),
    *(("ppssl", "encoder", "backbone"), ("ppssl", "encoder", "kwargs")),
]
OTHERS: list[Any] = ["absent", 3, "text", [1], None, {"a": 1}]


@pytest.mark.parametrize("part", PARTS, ids="/".join)
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_part_that_is_missing_or_another(
    part: tuple[str, ...], other: Any, good: Path, tmp_path: Path
) -> None:
    content = torch.load(good, weights_only=True)
    place = content
    for name in part[:-1]:
        place = place[name]
    if type(other) is type(place[part[-1]]) and part[-1] in ("init_args", "kwargs"):
        return  # of the right type: what is in it is the model's affair
    if part[-1] in ("class_path", "backbone") and other == "text":
        return
    if part[-1] == "schema_version" and other == 3:
        return
    place[part[-1]] = copy.copy(other)
    if other == "absent":
        del place[part[-1]]
    torch.save(content, tmp_path / "changed.ckpt")
    for read in (load_encoder, PPSSL.load_from_checkpoint):
        with pytest.raises(UserError, match=r"no (whole )?checkpoint of ppssl"):
            read(tmp_path / "changed.ckpt")


def test_weights_that_are_not_finite(good: Path, tmp_path: Path) -> None:
    content = torch.load(good, weights_only=True)
    name = next(
        n for n, v in content["state_dict"].items() if n.startswith("encoder") and v.ndim == 4
    )
    content["state_dict"][name][0] = float("nan")
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(UserError, match=r"weights in .*nan.ckpt are not finite"):
        load_encoder(tmp_path / "nan.ckpt")
    with pytest.raises(UserError, match="not finite"):
        PPSSL("resnet_small", pretrained=str(tmp_path / "nan.ckpt"), backbone_kwargs={"width": 2})


def test_arguments_that_no_model_takes(good: Path, tmp_path: Path) -> None:
    content = torch.load(good, weights_only=True)
    content["ppssl"]["model"]["init_args"]["backbone"] = 3
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(ValueError, match=r"`backbone` must be a text or a `Module`, got 3"):
        PPSSL.load_from_checkpoint(tmp_path / "changed.ckpt")
    del content["ppssl"]["model"]["init_args"]["backbone"]
    content["ppssl"]["model"]["init_args"]["seed_of_old"] = 3
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(UserError, match=r"seed_of_old|`ppssl.PPSSL` cannot be made of the"):
        PPSSL.load_from_checkpoint(tmp_path / "changed.ckpt")
