"""``ppssl doctor --replay``: a step whose loss was not finite is repeated to the same value, and traced."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from command_line import error_line, fit_arguments
from not_finite import LogOfImage, Network, Overflow
from ppssl import IADM, PPSSL, FolderDataModule, LossPlugin, MoCo, RunCheckpoint, UserError
from ppssl.cli.main import main
from ppssl.diagnosis.replay import replay
from ppssl.diagnosis.step import Replay


def _data(images: Path) -> FolderDataModule:
    return FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0, seed=3)


def _model(
    plugin: LossPlugin | None = None, backbone: Any = "resnet_small", **more: LossPlugin
) -> PPSSL:
    return PPSSL(
        backbone,
        backbone_kwargs={"width": 4} if backbone == "resnet_small" else None,
        lr=0.05,
        contrastive=MoCo(dim=8, momentum=0.5),
        plugins=({} if plugin is None else {"breaks": plugin}) | more,
        seed=3,
    )


def _fail(model: PPSSL, data: FolderDataModule, folder: Path, **trainer: Any) -> Path:
    """Train until the loss is not finite; returns the record that the error names."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    options = {
        "max_epochs": 4,
        "log_every_n_steps": 2,
        "limit_val_batches": 0,
        "accelerator": "cpu",
    }
    with pytest.raises(UserError) as caught:
        Trainer(
            default_root_dir=folder,
            logger=CSVLogger(folder, name="log"),
            callbacks=[RunCheckpoint()],
            **options | quiet | trainer,
        ).fit(model, data)
    named = re.search(r"`ppssl doctor --replay (\S+)` finds where it comes from", str(caught.value))
    assert named is not None, caught.value
    return Path(named[1])


def _name(data: FolderDataModule, index: int) -> str:
    return data.sources["train"].name(index)


def test_a_planted_nan_is_repeated_and_traced(image_folder: Path, tmp_path: Path) -> None:
    """From the checkpoint of an epoch, in the middle of the next one."""
    data = _data(image_folder)
    record = _fail(_model(LogOfImage(image=5)), data, tmp_path / "run")
    content = json.loads(record.read_text())
    found = replay(record)
    assert found.same
    assert (found.step, found.epoch) == (content["step"], content["epoch"])
    assert found.images == content["images"]
    row = found.images.index(5)
    assert found.terms == {"breaks": [row]}
    assert not found.finite_in_float64
    assert found.origin is not None
    assert (found.origin.layer, found.origin.kind) == ("plugins.breaks.layer", "Logarithm")
    assert found.origin.operation == "log"
    line = int(found.origin.place.rpartition(":")[2])
    assert (
        "(1 + x).log()"
        in Path(__file__).parents[1].joinpath("not_finite.py").read_text().splitlines()[line - 1]
    )
    assert found.guilty == [(5, _name(data, 5))]
    assert found.backward == ""  # 1 / x is finite


def test_the_values_that_are_finite_are_the_same_too(image_folder: Path, tmp_path: Path) -> None:
    """A record with another value of another image is not the same step."""
    record = _fail(_model(LogOfImage()), _data(image_folder), tmp_path / "run", log_every_n_steps=1)
    content = json.loads(record.read_text())
    assert sum(value == "nan" for value in content["terms"]["breaks"]) == 1
    assert replay(record).same
    value = float(content["terms"]["contrastive"][0])
    content["terms"]["contrastive"][0] = repr(float(np.nextafter(value, 9)))
    record.write_text(json.dumps(content))
    assert not replay(record).same


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)]
)
def test_before_the_first_checkpoint_the_run_is_begun_anew(
    image_folder: Path, tmp_path: Path, precision: Any
) -> None:
    seed_everything(11, verbose=False)
    others = {"z": IADM(), "a": IADM(hidden=8)}  # their order decides their initial weights
    model, data = _model(LogOfImage(start=0.1), **others), _data(image_folder)
    record = _fail(model, data, tmp_path / "run", precision=precision)
    assert json.loads(record.read_text())["checkpoint"] is None
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED")
    found = replay(record)
    assert found.same
    assert list(found.terms) == ["breaks"]
    assert found.guilty == [(5, _name(data, 5))]


def test_accumulated_batches(image_folder: Path, tmp_path: Path) -> None:
    """Several batches have the same step: the right one is repeated."""
    data = _data(image_folder)
    record = _fail(_model(LogOfImage()), data, tmp_path / "run", accumulate_grad_batches=3)
    found = replay(record)
    assert found.same
    assert found.guilty == [(5, _name(data, 5))]


def test_a_number_that_is_too_large_is_finite_in_float64(
    image_folder: Path, tmp_path: Path
) -> None:
    record = _fail(_model(Overflow(image=7)), _data(image_folder), tmp_path / "run")
    found = replay(record)
    assert found.same
    assert found.finite_in_float64
    assert found.terms == {"breaks": [found.images.index(7)]}
    assert found.origin is not None
    assert (found.origin.layer, found.origin.operation) == ("plugins.breaks", "exp")
    assert [index for index, _ in found.guilty] == [7]
    assert "too small a range" in found.lines()["in float64"]


def test_a_layer_of_the_encoder_whose_batch_norm_spreads_it(
    image_folder: Path, tmp_path: Path
) -> None:
    """All images have a loss of NaN; the one that it comes from is named. The module is given again."""
    black = sorted((image_folder / "train").rglob("*.png"))[10]
    Image.new("RGB", (48, 40)).save(black)
    torch.manual_seed(1)
    network = Network()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    record = _fail(
        _model(backbone=network), _data(image_folder), tmp_path / "run", log_every_n_steps=1
    )
    with pytest.raises(UserError, match="does not hold `backbone` of the model"):
        replay(record)
    again = Network()
    again.load_state_dict(weights)
    found = replay(record, model=_model(backbone=again))
    assert len(found.terms["contrastive"]) == 8
    assert found.origin is not None
    assert found.origin.layer.endswith("root")
    assert found.origin.operation == "sqrt"
    assert re.search(r"\w+Backward0 makes NaN, of \S+/ppssl/\S+:\d+$", found.backward)
    assert [name for _, name in found.guilty] == [str(black)]


def test_the_command_line(image_folder: Path, tmp_path: Path, capsys: Any) -> None:
    plugin = "--model.plugins={breaks: {class_path: not_finite.LogOfImage, init_args: {image: 5}}}"
    options = [plugin, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]
    assert main(fit_arguments(image_folder, tmp_path / "run", *options)) == 2
    line = error_line(capsys)
    record = re.search(r"`ppssl doctor --replay (\S+)`", line)
    assert record is not None
    assert Path(record[1]).is_relative_to(tmp_path / "run")
    written = tmp_path / "replay.json"
    assert main(["doctor", "--replay", record[1], "--json", str(written)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the values of the run, to the last bit" in shown
    assert "term: `breaks` (1 of 8 values)" in shown
    assert "layer: `plugins.breaks.layer` (Logarithm): `log` at" in shown
    assert f"image: 5 ({image_folder / 'train' / 'class0' / '5.png'})" in shown
    assert json.loads(written.read_text())["guilty"] == [
        [5, str(image_folder / "train/class0/5.png")]
    ]


def test_records_that_cannot_be_repeated(image_folder: Path, tmp_path: Path) -> None:
    record = _fail(_model(LogOfImage()), _data(image_folder), tmp_path / "run")
    with pytest.raises(UserError, match=r"No such record: .*\(did you mean not_finite"):
        replay(record.with_name(record.name.replace("step", "stop")))
    content = json.loads(record.read_text())

    def changed(**values: Any) -> Path:
        path = tmp_path / "changed.json"
        path.write_text(
            json.dumps(content | {"checkpoint": str(record.with_suffix(".state"))} | values)
        )
        return path

    with pytest.raises(UserError, match="had 2 processes"):
        replay(changed(processes=2))
    with pytest.raises(UserError, match="is no record of a step"):
        replay(changed(schema_version=7))
    with pytest.raises(UserError, match="The checkpoint before the step is gone"):
        replay(changed(checkpoint="nowhere.state"))
    with pytest.raises(UserError, match="did not come to a step"):
        replay(changed(images=[1, 2, 3]))
    assert replay(changed()).same


def test_a_run_that_writes_nothing_leaves_no_record(image_folder: Path, tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    with pytest.raises(UserError, match="The loss is nan") as caught:
        Trainer(
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            default_root_dir=tmp_path / "run",
            accelerator="cpu",
            **quiet,
        ).fit(_model(LogOfImage()), _data(image_folder))
    assert "--replay" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_lines_of_a_step_that_is_not_the_same() -> None:
    found = Replay(4, 1, [1, 2], same=False, terms={"a": []}, finite_in_float64=False)
    assert found.lines() == {
        "step 4, epoch 1": "other values than in the run: another machine or other versions, or a model without a seed",
        "in float64": "not finite either",
        "term": "`a` (mean of 2 values)",
        "images": "all of the batch",
    }
