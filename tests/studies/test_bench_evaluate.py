import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import error_line
from ppssl.cli.main import main
from ppssl.evaluation.logistic_regression_probe import linear_probe_predictions
from ppssl.studies.bench_evaluate import (
    EmbeddingSizes,
    RandomEmbeddings,
    bench_evaluate,
    scikit_learn_probe,
)

SMALL = EmbeddingSizes(train=120, test=60, classes=4, dim=32)
SMALL_ARGS = ["--train", "120", "--test", "60", "--classes", "4", "--dim", "32"]


def test_json_has_seconds_scores_and_ratios(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "evaluate.json"
    args = ["bench", "evaluate", *SMALL_ARGS, "--repeats", "2", "--device", "cpu"]
    assert main([*args, "--json", str(path)]) == 0
    assert "retrieval" in capsys.readouterr().out
    content = json.loads(path.read_text())
    tasks = {"linear", "kNN", "retrieval", "scikit-learn"}
    assert set(content["seconds"]) == set(content["scores"]) == tasks
    for seconds in content["seconds"].values():
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert set(content["ratios"]) == {f"{t}/scikit-learn" for t in tasks - {"scikit-learn"}}
    assert content["arguments"]["dim"] == 32
    assert all(0.25 < score <= 1 for score in content["scores"].values())


def test_without_scikit_learn_there_is_no_ratio() -> None:
    results = bench_evaluate(SMALL, scikit_learn=False, device="cpu")
    assert set(results["seconds"]) == {"linear", "kNN", "retrieval"}
    assert results["ratios"] == {}


def test_scikit_learns_probe_solves_the_problem_of_ours() -> None:
    e = RandomEmbeddings.draw(EmbeddingSizes(train=400, test=200, classes=5, dim=64))
    reference = scikit_learn_probe(e.train, e.train_labels, e.test)
    ours = linear_probe_predictions(e.train, e.train_labels, e.test, seed=0)
    assert (reference == ours.cpu()).double().mean() > 0.98
    assert (reference == e.test_labels).double().mean() > 0.5


def test_embeddings_are_non_negative_clusters_of_the_given_sizes() -> None:
    e = RandomEmbeddings.draw(SMALL)
    assert e.train.shape == (120, 32)
    assert e.test.shape == (60, 32)
    assert e.train.dtype == torch.float32
    assert e.train.min() == 0
    assert e.train_labels.bincount().tolist() == [30] * 4
    again = RandomEmbeddings.draw(SMALL)
    torch.testing.assert_close(e.test, again.test, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--classes", "1"], "`classes` must be >= 2, got 1"),
        (["--train", "7"], "`train` must be two images per class or more, >= 8, got 7"),
        (["--test", "0"], "`test` must be >= 1, got 0"),
        (["--dim", "0"], "`dim` must be >= 1, got 0"),
        (["--repeats", "0"], "`repeats` must be >= 1, got 0"),
        (["--device", "gpu7"], "`device` gpu7 cannot be used"),
        (["--trian", "7"], "trian"),
    ],
)
def test_errors_are_one_line(args: list[str], message: str, capsys: Any) -> None:
    assert main(["bench", "evaluate", *SMALL_ARGS, *args]) == 2
    assert message in error_line(capsys)
