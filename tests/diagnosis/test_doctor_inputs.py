"""``ppssl doctor`` with inputs that are wrong: one line each, or what cannot be looked at is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from command_line import TINY, error_line
from ppssl import PPSSL, FolderDataModule, UserError, embed
from ppssl.cli.main import main
from ppssl.diagnosis.doctor import doctor
from ppssl.diagnosis.replay import replay

RECIPE = "ppssl:folder/pretrain"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--images=-1", "`images` must be >= 1, got -1"),
        ("--steps=-1", "`steps` must be >= 0, got -1"),
        ("--embeddings=nowhere.parquet", "No such file of embeddings: nowhere.parquet"),
        ("--replay=nowhere.json", "No such record: nowhere.json"),
        ("--data.root", "`--data.root` needs a value"),
    ],
)
def test_a_wrong_option_is_one_line(
    option: str, message: str, image_folder: Path, capsys: Any
) -> None:
    root = [] if "root" in option else [f"--data.root={image_folder}"]
    assert main(["doctor", "--config", RECIPE, *root, *TINY, option]) == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.batch_size=-3", "`batch_size` must be >= 1, got -3"),
        ("--model.backbone_kwargs={no_such: 1}", "no_such"),
        ("--model.contrastive.temperature=0", "temperature"),
    ],
)
def test_what_a_constructor_refuses_is_a_finding(
    option: str, message: str, image_folder: Path, tmp_path: Path
) -> None:
    """The other findings, and their JSON, are there as well."""
    written = tmp_path / "doctor.json"
    options = [f"--data.root={image_folder}", *TINY, option]
    assert main(["doctor", "--config", RECIPE, *options, "--json", str(written)]) == 2
    findings = json.loads(written.read_text())["findings"]
    assert {finding["area"] for finding in findings} == {"installation", "machine", "settings"}
    (said,) = [finding for finding in findings if finding["area"] == "settings"]
    assert (said["level"], message in said["value"]) == ("problem", True)


@pytest.mark.parametrize("labelled", [0.5, 1.0])
def test_of_a_classifier_the_labelled_images_are_counted(
    labelled: float, image_folder: Path
) -> None:
    options = [f"--data.root={image_folder}", *TINY, "--model.backbone=resnet_small"]
    options += [f"--data.label_fraction={labelled}", "--data.batch_size=2"]
    diagnosis = doctor("ppssl:folder/finetune", options, steps=0)
    fitted = int(24 * labelled * 0.75)  # a quarter is held out
    (batch,) = [f for f in diagnosis.findings["settings"] if f.what == "batch"]
    (steps,) = [f for f in diagnosis.findings["settings"] if f.what == "steps"]
    assert f"2 of {fitted} training images" in batch.value
    assert steps.value.startswith(f"{fitted // 2} ")


def test_embeddings_of_other_images_are_refused(image_folder: Path, tmp_path: Path) -> None:
    """Also of as many: their rows would be taken for those of these images."""
    torch.manual_seed(0)
    model = PPSSL("resnet_small", backbone_kwargs={"width": 4})
    data = FolderDataModule(image_folder, image_size=32, batch_size=8, num_workers=0)
    file = embed(model, data, tmp_path / "e.parquet", device="cpu")
    options = [f"--data.root={image_folder}", *TINY]
    assert doctor(RECIPE, options, steps=0, embeddings=file).findings["data"]
    Image.new("RGB", (90, 70), "red").save(image_folder / "train" / "class0" / "0.png")
    with pytest.raises(UserError, match=r"e\.parquet is of other images .* or write it again"):
        doctor(RECIPE, options, steps=0, embeddings=file)


def test_data_that_is_not_ours_is_not_looked_at(tmp_path: Path, capsys: Any) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {class_path: ppssl.PPSSL, init_args: {backbone: resnet_small, lr: 0.01}}\n"
        "data: {class_path: lightning.pytorch.demos.boring_classes.BoringDataModule}\n"
    )
    assert main(["doctor", "--config", str(recipe)]) in (1, 2)
    shown = " ".join(capsys.readouterr().out.split())
    assert "not looked at: `BoringDataModule` is none of ppssl's -> Try the run by `ppssl" in shown


@pytest.mark.parametrize(
    ("corpus", "level", "value"),
    [
        ("birds", "ok", " descriptions"),
        ("{out}/nowhere.txt", "problem", "No corpus `{out}/nowhere.txt`: it must be a file or one"),
        ("{out}/one.txt", "problem", "must have 2 to 50,000 different descriptions, {out}/one.txt"),
        ("cub-attributes", "problem", "{root} has no"),
    ],
)
def test_a_corpus_is_read(
    corpus: str, level: str, value: str, image_folder: Path, tmp_path: Path
) -> None:
    """Though no bank is made of it."""
    (tmp_path / "one.txt").write_text("a bird\n")
    names = {"out": str(tmp_path), "root": str(image_folder)}
    options = [f"--data.root={image_folder}", *TINY]
    options += [f"--model.plugins.ais.corpus={corpus.format(**names)}"]
    found = doctor(RECIPE, options, steps=0).findings["settings"]
    (line,) = [finding for finding in found if finding.what == "corpus of ais"]
    assert line.level == level
    assert value.format(**names) in line.value


def test_the_command_line_of_fit_is_taken(image_folder: Path, tmp_path: Path, capsys: Any) -> None:
    options = ["-c", RECIPE, f"--data.root={image_folder}", *TINY, "--resume", "auto"]
    more = ["--ckpt_path=nowhere.ckpt", f"--trainer.default_root_dir={tmp_path}", "--steps=0"]
    assert main(["doctor", *options, *more]) in (0, 1)
    assert "images: train" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        "{}",
        '{"schema_version": 1, "terms": {}}',
        '{"schema_version": 1, "terms": {}, "processes": 1, "step": "3"}',
        "not json",
    ],
)
def test_what_is_no_record_is_one_line(content: str, tmp_path: Path) -> None:
    record = tmp_path / "not_finite-step=3.json"
    record.write_text(content)
    with pytest.raises(UserError, match=r"step=3\.json is no record of a step: give the"):
        replay(record)


@pytest.mark.parametrize("name", ["step", "threads", "trainer", "model", "seed_everything"])
def test_a_record_without_an_entry_is_none(name: str, tmp_path: Path) -> None:
    entries: dict[str, Any] = dict.fromkeys(("step", "epoch", "processes", "threads"), 1)
    entries |= {"schema_version": 1, "images": [], "loss": "nan", "terms": {}, "device": "cpu"}
    entries |= dict.fromkeys(("seed_everything", "checkpoint", "data", "model")) | {"trainer": {}}
    record = tmp_path / "record.json"
    record.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="The record does not hold `it` of the model"):
        replay(record)
    del entries[name]
    record.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="is no record of a step"):
        replay(record)
