"""Each part that a user may bring (docs/how-to/bring-your-own.md) trains, is saved, loaded and resumed.

The code is that of the page: what a block calls ``model`` or ``data`` takes the place of a small one of ours.
"""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from ppssl import PPSSL, AtomicCheckpointIO, FolderDataModule, MoCo, load_encoder, load_transform
from save_at import SaveAt
from test_docs import PROJECT, Block, blocks, is_there, small_code

PAGE = "docs/how-to/bring-your-own.md"


def _parts() -> dict[str, Block]:
    """The blocks between the first heading and the last one, by heading and number."""
    text = (PROJECT / PAGE).read_text()
    parts = {}
    for block in blocks(PAGE, "python")[1:-1]:
        heading = re.findall(r"^##+ (.+)$", text[: text.index(block.code)], flags=re.MULTILINE)[-1]
        number = sum(name.startswith(heading) for name in parts) + 1
        parts[f"{heading} {number}"] = block
    return parts


PARTS = _parts()


def _names(block: Block, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the block defines, with defaults for the rest."""
    torch.manual_seed(0)
    module = ModuleType("own_parts")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(small_code(block.code), PAGE, "exec"), vars(module))
    names = vars(module)
    if "model" not in names:
        moco = MoCo(dim=8, queue_size=16)
        names["model"] = PPSSL("resnet_small", backbone_kwargs={"width": 4}, contrastive=moco)
    if "data" not in names:
        names["data"] = FolderDataModule(
            "path/to/images", image_size=32, batch_size=8, num_workers=0
        )
    return names


def _fit(names: dict[str, Any], *callbacks: Any, resume: Path | None = None) -> Trainer:
    trainer = Trainer(
        max_steps=4,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=list(callbacks),
    )
    trainer.fit(names["model"], names["data"], ckpt_path=resume)
    return trainer


def _assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, value in first.state_dict().items():
        assert value.equal(second.state_dict()[name]), name


FEW = ("Encoder 1", "Loss 1", "Model 1", "Views 1")
"""One kind each by default; the whole page runs in ``test_docs.py``."""


@pytest.mark.parametrize(
    "part", [part if part in FEW else pytest.param(part, marks=pytest.mark.slow) for part in PARTS]
)
def test_it_trains_and_is_saved_loaded_and_resumed(
    part: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = PARTS[part]
    if not is_there(block.needs):
        pytest.skip(f"{block.needs} is not installed")
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "images").symlink_to(image_folder)
    monkeypatch.chdir(tmp_path)
    middle, end = tmp_path / "middle.ckpt", tmp_path / "end.ckpt"
    straight, resumed = _names(block, monkeypatch), _names(block, monkeypatch)
    start = {name: value.clone() for name, value in straight["model"].encoder.state_dict().items()}
    trainer = _fit(straight, SaveAt(2, middle))
    assert any(
        not value.equal(start[n]) for n, value in straight["model"].encoder.state_dict().items()
    )
    _fit(resumed, resume=middle)
    _assert_same(resumed["model"], straight["model"])

    trainer.save_checkpoint(end)
    torch.load(end, weights_only=True)
    given = {"backbone": resumed["backbone"]} if "backbone" in resumed else {}
    loaded = PPSSL.load_from_checkpoint(end, **given)
    assert type(loaded) is type(resumed["model"])
    assert loaded.config()["init_args"] == resumed["model"].config()["init_args"]
    _assert_same(loaded, straight["model"])
    encoder = load_encoder(end, **given)
    _assert_same(encoder, straight["model"].encoder.model)
    source, size = straight["data"].sources["train"], straight["data"].image_size
    assert load_transform(end)(source.load(0)).shape == (3, size, size)


def test_every_part_is_here() -> None:
    assert {name[:-2] for name in PARTS} == {
        "Contrastive base",
        "Encoder",
        "Images",
        "Loss",
        "Model",
        "More than two views",
        "Views",
    }
    assert len(PARTS) == 14
