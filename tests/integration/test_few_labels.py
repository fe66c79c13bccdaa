"""Few labels: what is defined is measured, what is not is left out with one line; no NaN, no traceback."""

import json
import logging
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command_line import error_line, fit_arguments
from ppssl.cli.main import main

slow = partial(pytest.param, marks=pytest.mark.slow)
SETS: dict[str, dict[str, int]] = {
    "one class": {"train/a": 16, "test/a": 4},
    "one class, no test": {"a": 16},
    "two images each": {f"{s}/c{i}": 2 for i in range(8) for s in ("train", "test")},
    "two images each, no test": {f"c{i}": 2 for i in range(8)},
    "one image each": {f"{s}/c{i}": 1 for i in range(8) for s in ("train", "test")},
    "one image each, no test": {f"c{i}": 1 for i in range(8)},
    "one class beside unlabelled": {"train/a": 16, "train": 8, "test/a": 4},
    "one label": {"train/a": 1, "train": 16, "test/a": 2},
    "small gallery": {"train/a": 2, "train/b": 8, "test/a": 2, "test/b": 2},
    "no labels": {"train": 16, "test": 4},
}
MONITORED = {"knn_top1", "rankme", "retrieval_rank1", "retrieval_rank5", "retrieval_map"}
RETRIEVAL = {"retrieval_rank1", "retrieval_rank5", "retrieval_map"}


def _images(root: Path, name: str) -> Path:
    rng = np.random.default_rng(0)
    for folder, count in SETS[name].items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
            image.save(root / folder / f"{folder.replace('/', '-')}-{i}.png")
    return root


Run = Callable[..., str]


@pytest.fixture
def run(capsys: Any, caplog: pytest.LogCaptureFixture) -> Run:
    """Runs a command and returns all that it says."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        caplog.clear()
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
            warnings.simplefilter("always")
            assert main(list(arguments)) == code
        if code:
            return error_line(capsys)
        lines = [str(w.message) for w in caught] + [r.message for r in caplog.records]
        return "\n".join([capsys.readouterr().out, *lines])

    return run


def _logged(said: str, stage: str) -> set[str]:
    """Names of the values in the Trainer's table."""
    cells = {cell.strip() for cell in said.replace("│", "\n").splitlines()}
    return {cell.removeprefix(f"{stage}/") for cell in cells if cell.startswith(f"{stage}/")}


@pytest.mark.parametrize(
    ("name", "validated", "line"),
    [
        ("one class", MONITORED, None),
        ("two images each", MONITORED - RETRIEVAL, "Not monitored: retrieval_rank1, retrieval_r"),
        slow("two images each, no test", MONITORED - RETRIEVAL, "two queries of the same class"),
        ("one image each", set(), "No labelled image to validate on: kNN and retrieval are not"),
        slow("one class beside unlabelled", MONITORED, None),
        slow("one label", set(), "No labelled image to validate on"),
        ("no labels", set(), "No labels: kNN and retrieval are not monitored"),
        slow("small gallery", MONITORED, None),
    ],
)
def test_what_is_defined_is_monitored(
    name: str, validated: set[str], line: str | None, tmp_path: Path, run: Run
) -> None:
    images, out = _images(tmp_path / "images", name), tmp_path / "run"
    logger = f"{{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {{save_dir: {out}}}}}"
    options = fit_arguments(images, out, f"--trainer.logger={logger}")
    said = run(*options)
    (metrics,) = out.rglob("metrics.csv")
    header = metrics.read_text().splitlines()[0].split(",")
    assert {n.removeprefix("val/") for n in header if n.startswith("val/")} == validated
    assert "nan" not in metrics.read_text()
    assert line is None or said.count(line) == 1
    (last,) = out.rglob("last.ckpt")
    said = run("validate", *options[1:], "--ckpt_path", str(last))
    assert _logged(said, "val") == validated
    assert line is None or said.count(line) == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("few-labels")
    assert main(fit_arguments(_images(root / "images", "small gallery"), root / "run")) == 0
    (last,) = (root / "run").rglob("last.ckpt")
    return last


NO_CLASSES = "linear: left out, the gallery does not have two classes"
NO_HELD_OUT = "linear: left out, the gallery does not have two images of any class"
NO_RETRIEVAL = "rank-1, rank-5 and mAP are not defined"


@pytest.mark.parametrize(
    ("name", "fraction", "lines"),
    [
        ("one class", 1.0, [NO_CLASSES, "knn-20: left out, the gallery has 16 images"]),
        ("one class", 0.5, [NO_CLASSES, "knn-10, knn-20: left out, the gallery has 8 images"]),
        ("one class, no test", 1.0, [NO_CLASSES]),
        ("two images each", 1.0, ["knn-20: left out"]),
        ("two images each", 0.5, [NO_HELD_OUT, "knn-10, knn-20: left out"]),
        ("two images each, no test", 1.0, [NO_HELD_OUT, NO_RETRIEVAL]),
        ("one image each", 1.0, [NO_HELD_OUT, NO_RETRIEVAL]),
        ("one class beside unlabelled", 1.0, [NO_CLASSES]),
        ("one label", 1.0, [NO_CLASSES, "knn-5, knn-10, knn-20: left out, the gallery has 1"]),
        ("small gallery", 0.5, ["knn-10, knn-20: left out, the gallery has 5 images"]),
    ],
)
@pytest.mark.parametrize("source", ["checkpoint", "embeddings"])
def test_what_is_defined_is_evaluated(
    source: str,
    name: str,
    fraction: float,
    lines: list[str],
    checkpoint: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    images = _images(tmp_path / "images", name)
    data = ["--data=ppssl:folder/pretrain", f"--data.root={images}", "--data.image_size=32"]
    data += ["--data.num_workers=0", "--data.val_fraction=0.25"]
    given, results = [str(checkpoint), *data], tmp_path / "results.json"
    if source == "embeddings":
        file = str(tmp_path / "embeddings.parquet")
        run("embed", *given, "--out", file)
        given = [file]
    rows = [] if fraction == 1 else ["--label-fraction", str(fraction)]
    said = run("evaluate", *given, *rows, "--json", str(results))
    for line in lines:
        assert said.count(line) == 1, said
    content = json.loads(results.read_text())
    metrics = content["rows"][0]["metrics"] if rows else content["metrics"]
    left_out = {
        name
        for line in lines
        if ": left out" in line
        for name in line.partition(": left out")[0].split(", ")
    }
    assert not left_out & metrics.keys()
    assert ("linear" in metrics) == (not {NO_CLASSES, NO_HELD_OUT} & set(lines))
    undefined = {name for name, value in metrics.items() if value is None}
    assert undefined == ({"rank-1", "rank-5", "mAP"} if NO_RETRIEVAL in lines else set())
    assert all(math.isfinite(value) for value in metrics.values() if value is not None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no labels", "Nothing to evaluate against"),
        ("one image each, no test", "Nothing to evaluate on: there is no test split"),
    ],
)
def test_nothing_to_evaluate_is_one_line(
    name: str, message: str, checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    images = _images(tmp_path / "images", name)
    data = ["--data=ppssl:folder/pretrain", f"--data.root={images}", "--data.image_size=32"]
    assert message in run("evaluate", str(checkpoint), *data, code=2)


@pytest.mark.parametrize("recipe", ["linear", slow("finetune")])
def test_classifiers_of_few_labels(recipe: str, checkpoint: Path, tmp_path: Path, run: Run) -> None:
    def options(name: str) -> list[str]:
        images = _images(tmp_path / name, name)
        more = ["--trainer.logger=false", f"--model.pretrained={checkpoint}"]
        arguments = fit_arguments(images, tmp_path / f"{name} run", *more)
        arguments[2] = f"ppssl:folder/{recipe}"
        return [*arguments, "--data.batch_size=4"]

    for name in ("one class", "one class beside unlabelled", "one label"):
        line = run(*options(name), code=2)
        assert "needs two classes or more, and the data set has `a` only" in line
    said = run(*options("one image each"))
    assert said.count("No labelled image to validate on: accuracy is not monitored") == 1
    said = run(*options("two images each"))
    assert "not monitored" not in said
