"""AIS from the command line: with a CLIP in a folder, and again from the bank alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layouts
from command_line import error_line, fit_arguments
from ppssl import PPSSL
from ppssl.cli.main import main
from ppssl.text.corpus import TextCorpus
from tiny import tiny_clip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "descriptions.csv"
    path.write_text("class,description\na,a red one\nb,a green one\nc,a blue one\n")
    return path


def test_with_a_teacher_and_again_from_the_bank(
    image_folder: Path, corpus: Path, tmp_path: Path, caplog: Any
) -> None:
    teacher = tiny_clip(tmp_path / "clip")
    plugin = [f"--model.plugins.ais.corpus={corpus}", f"--model.plugins.ais.teacher={teacher}"]
    assert main(fit_arguments(image_folder, tmp_path / "a", *plugin)) == 0
    assert "Found the bank" not in caplog.text
    caplog.clear()
    shutil.rmtree(teacher)
    assert main(fit_arguments(image_folder, tmp_path / "b", *plugin)) == 0
    assert caplog.text.count("Found the bank") == 2
    (a,), (b,) = ((tmp_path / name).rglob("last.ckpt") for name in "ab")
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (a, b))
    assert all(value.equal(second[name]) for name, value in first.items())


def test_what_goes_wrong_is_one_line(
    image_folder: Path, corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    cases = [
        (["--model.plugins.ais.corpus=nowhere.txt"], "No corpus `nowhere.txt`"),
        (
            [f"--model.plugins.ais.corpus={corpus}", "--model.plugins.ais.corpus_column=notes"],
            "no column `notes`",
        ),
        (
            [f"--model.plugins.ais.corpus={corpus}", "--model.plugins.ais.teacher=no/such-clip"],
            "cannot read `no/such-clip`",
        ),
        ([f"--model.plugins.ais.corpus={corpus}", "--model.plugins.ais.tutor=x"], "tutor"),
        (["--model.plugins.ais.teacher=x"], "corpus"),
        (
            [f"--model.plugins.ais.corpus={corpus}", "--model.plugins.ais.perplexity=2"],
            "`perplexity` must be in",
        ),
    ]
    for arguments, message in cases:
        assert main(fit_arguments(image_folder, tmp_path / "run", *arguments)) == 2, arguments
        assert message in error_line(capsys)


OWN_CORPORA = {
    "cub-attributes": ("cub", layouts.cub, "", 3),
    "cub-attributes, the set's own folder": ("cub", layouts.cub, "CUB_200_2011", 3),
    # 3 models, 2 makes, 2 body types, 2 years
    "cars-names": ("cars", layouts.cars, "", 9),
    "cars-names, parquet": ("cars", layouts.parquet, "", 9),
    # 3 variants, 3 families, 2 manufacturers
    "aircraft-hierarchy": ("aircraft", layouts.aircraft, "", 8),
    "aircraft-hierarchy, its lists": ("aircraft", layouts.aircraft, "fgvc-aircraft-2013b/data", 8),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if "," in case else ()) for case in OWN_CORPORA],
)
def test_a_data_sets_own_corpus(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """By its name alone, added to a recipe that has no plugin: the bank holds its descriptions and all images."""
    name, (folder, lay_out, below, descriptions) = case.split(",")[0], OWN_CORPORA[case]
    monkeypatch.setenv("PPSSL_CACHE", str(tmp_path / "cache"))
    root = lay_out(tmp_path / "data") / below
    small = {
        "model.backbone": "resnet_small",
        "model.backbone_kwargs": "{width: 4}",
        "model.pretrained": "false",
        "data.check_counts": "false",
        "data.image_size": "32",
        "data.batch_size": "4",
        "data.num_workers": "0",
        "trainer.max_steps": "1",
        "trainer.limit_val_batches": "0",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.default_root_dir": str(tmp_path / "run"),
        "data.root": str(root),
        "model.plugins.ais.corpus": name,
        "model.plugins.ais.teacher": str(tiny_clip(tmp_path / "clip")),
    }
    options = [f"--{option}={value}" for option, value in small.items()]
    assert main(["fit", "--config", f"ppssl:{folder}/moco_v2", *options]) == 0
    assert f"AIS: {descriptions} descriptions" in caplog.text
    corpus = TextCorpus.load(name, classes=layouts.MODELS, root=root)
    (texts,) = (tmp_path / "cache" / "banks").rglob(f"texts-{corpus.fingerprint()}*.npy")
    (images,) = (tmp_path / "cache" / "banks").rglob("images-*.npy")
    assert len(np.load(texts)) == descriptions
    seen = torch.from_numpy(np.load(images)).float()
    assert len(seen) == (12 if folder == "aircraft" else 9)
    assert seen.norm(dim=-1).min() > 0.99  # each image was looked at; one left out is zero
    (checkpoint,) = (tmp_path / "run").rglob("last.ckpt")
    trained = torch.load(checkpoint, weights_only=True)
    assert trained["global_step"] == 1
    assert PPSSL.load_from_checkpoint(checkpoint).plugins["ais"].corpus == name
