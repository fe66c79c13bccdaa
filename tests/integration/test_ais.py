"""AIS from the command line: with a CLIP in a folder, and again from the bank alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import error_line, fit_arguments
from ppssl.cli import main
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
