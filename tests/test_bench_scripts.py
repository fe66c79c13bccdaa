"""Scripts of experiments/bench: their measures, and the tables of the documentation that are made of their files."""

import json
from pathlib import Path

import numpy as np
import torch
from experiments.bench.corpus import leave_one_out

PROJECT = Path(__file__).parents[1]
NAMES = {"mean (p)": "mean", "energy": "energy", "GeM": "gem", "maximum": "max"}


def test_the_only_image_of_a_class_has_no_average_precision() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.2], [0.5, 0.5]])
    found = leave_one_out(rows, torch.tensor([0, 0, 1, 1, 0, 2]))
    assert found["mAP"] == 1


def test_the_table_of_poolings_is_that_of_its_file() -> None:
    """Mean and sample standard deviation, as in the tables of studies."""
    poolings = json.loads((PROJECT / "experiments/results/pooling.json").read_text())["poolings"]
    text = (PROJECT / "docs/results/iadm.md").read_text()
    for title, name in NAMES.items():
        (line,) = (row for row in text.splitlines() if row.startswith(f"| {title}") and "±" in row)
        cells = [
            f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
            for metric in ("knn-1", "knn-5", "linear", "rank-1", "mAP")
            for values in [[row[metric] for row in poolings[name]]]
        ]
        assert line.split(" | ")[1:] == [*cells[:-1], f"{cells[-1]} |"]
