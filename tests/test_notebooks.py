"""The notebooks run as they are committed, and show what they say: on a CPU, from an empty folder, without network."""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = ["1_quickstart", "2_subclassing", "3_fine_tune"]


def _run(name: str, folder: Path, ask: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The values of expressions in a notebook's names after its last cell, and how many figures it shows."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    values = ", ".join(f"{key!r}: {expression}" for key, expression in ask.items())
    notebook.cells.append(
        nbformat.v4.new_code_cell(f"import json; print(json.dumps({{{values}}}))")
    )
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=1200, startup_timeout=300, resources=place)
    client.execute(env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    figures = sum("image/png" in out.get("data", {}) for out in outputs)
    errors = [out["text"] for out in outputs if out.get("name") == "stderr"]
    assert not any("Warning" in text for text in errors), errors
    return json.loads(outputs[-1]["text"]), figures


def test_they_are_all_here_without_outputs() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    for name in NAMES:
        cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert "".join(cell.source for cell in code).count("from ppssl.") == 0  # public names only


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_quickstart_learns_and_retrieves(tmp_path: Path) -> None:
    found, figures = _run(
        "1_quickstart",
        tmp_path,
        {
            "before": "before.metrics",
            "after": "after.metrics",
            "nearest": "[[bool(test.labels[i] == test.labels[q]) for i in nearest(after_embeddings, q)] "
            "for q in queries]",
            "shape": "list(features.shape)",
        },
    )
    assert figures == 4
    assert found["before"]["knn-5"] < 0.4
    assert found["after"]["knn-5"] > 0.5  # chance 0.08
    assert found["after"]["mAP"] > 2 * found["before"]["mAP"]
    assert sum(map(sum, found["nearest"])) > len(found["nearest"]) * 6 / 2
    assert found["shape"] == [3, 128]
    assert (tmp_path / "runs" / "quickstart" / "last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_subclasses_train_and_the_plugin_does_what_it_is_for(tmp_path: Path) -> None:
    ask = {
        "rank": "{name: found.metrics['rankme'] for name, found in results.items()}",
        "knn": "{name: found.metrics['knn-5'] for name, found in results.items()}",
        "logged": "sorted(trainer.logged_metrics)",
        "classes": "len(data.classes)",
        "same": "[same(loaded, straight), same(resumed, straight)]",
        "own": "[type(loaded).__name__, loaded.share]",
        "steps": "[resumed.global_step, straight.global_step, turning.global_step]",
        "turned": "sorted(turning.logged_metrics)",
    }
    found, figures = _run("2_subclassing", tmp_path, ask)
    assert figures == 1
    assert found["rank"]["with Decorrelate"] > 1.2 * found["rank"]["without"]
    assert {"train/loss_decorrelate", "train/decorrelate_mean"} <= set(found["logged"])
    assert found["classes"] == 8
    assert found["same"] == [True, True]
    assert found["own"] == ["Rotations", 0.3]
    assert found["steps"] == [40, 40, 40]
    assert "train/loss_turn" in found["turned"]
    assert min(found["knn"].values()) > 0.2  # chance 0.125


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_few_labels_go_further_from_a_pretrained_encoder(tmp_path: Path) -> None:
    found, figures = _run("3_fine_tune", tmp_path, {"results": "results"})
    assert figures == 3  # the curves, the confused classes, the predictions
    random, pretrained = found["results"]["random weights"], found["results"]["pretrained"]
    assert [row["labels"] for row in random] == [row["labels"] for row in pretrained]
    assert len({row["labels"] for row in random}) == 3
    gains = [b["test/top1"] - a["test/top1"] for a, b in zip(random, pretrained, strict=True)]
    assert min(gains) > 0
    assert sum(gains) / 3 > 0.1
    assert pretrained[-1]["test/top1"] > 0.5  # chance 0.08
