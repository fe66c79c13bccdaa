"""Tables of the saliency benchmark: in Markdown, and a short one for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppssl.studies.compare import markdown_table

__all__ = ["COLUMNS", "markdown_tables", "row_name", "short_table"]

COLUMNS = {
    "lift_part": "part: energy / chance",
    "lift_bird": "bird: energy / chance",
    "focus": "part / bird",
    "pointing_part": "part: hits",
    "pointing_bird": "bird: hits",
    "reproducibility": "r: same image, other key",
    "other_image": "r: another image",
    "like_contrast": "r: no-model contrast",
    "kl_uniform": "KL from uniform",
}
"""Headings of the scores in the tables; r is a correlation over the cells."""
_SHORT_COLUMNS = {
    "lift_part": "part",
    "lift_bird": "bird",
    "focus": "part/bird",
    "reproducibility": "r same",
    "other_image": "r other",
    "like_contrast": "r contrast",
}


def row_name(row: Mapping[str, Any]) -> str:
    """Name the map of a row, such as ``image blur, loss, relu_pool``; defaults are left out."""
    parts = [f"{row['source']} {row['reference']}" if row["reference"] else row["source"]]
    if row["target"] == "loss":
        parts.append("loss")
    if row["order"] != "pool_relu":
        parts.append(row["order"])
    return ", ".join(parts)


def markdown_tables(content: Mapping[str, Any]) -> str:
    """Write a Markdown table of all scores for each resolution and treatment, with a legend."""
    arguments = content["arguments"]
    visible = "; ".join(f"{name} visible in {n}" for name, n in content["images_with"].items())
    if arguments.get("foreground") == "grabcut":
        visible += ", estimated by GrabCut"
    lines = [
        f"{arguments['images']} images ({visible or 'no masks'}), checkpoints: {arguments['checkpoints']}. "
        "Values before -> after training; ± is the standard deviation over checkpoints, or for one checkpoint the "
        "standard error of a lift over images. The columns are defined in "
        "`ppssl.studies.bench_saliency.scores.map_scores`; `contrast` is a control without a model. "
        f"Target similarity and order pool_relu unless stated; sharpen: gamma {arguments['gamma']:g}.",
    ]
    tables = dict.fromkeys((row["resolution"], row["treatment"]) for row in content["rows"])
    for resolution, treatment in tables:
        headings, cells = _before_after_table(content["rows"], resolution, treatment)
        lines += ["", f"## {resolution.capitalize()} resolution, {treatment}", ""]
        lines += [markdown_table([headings, *cells]).rstrip()]
    return "\n".join(lines) + "\n"


def short_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the terminal's table: after training, target similarity, equal resolution, plain maps."""
    rows = [row for row in _select(rows, "equal", "plain") if row["target"] != "loss"]
    names = [name for name in _SHORT_COLUMNS if name in rows[0]["after"]]
    cells = []
    for row in rows:
        values = [f"{np.mean(row['after'][name]):.2f}" for name in names]
        cells.append([row_name(row), *values])
    return ["map", *(_SHORT_COLUMNS[name] for name in names)], cells


def _before_after_table(
    rows: Sequence[Mapping[str, Any]], resolution: str, treatment: str
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, ``before -> after``, of one resolution and treatment."""
    rows = _select(rows, resolution, treatment)
    names = [name for name in COLUMNS if all(name in row["after"] for row in rows)]
    cells = []
    for row in rows:
        before, after = row["before"], row["after"]
        values = [f"{_mean_and_error(before, n)} -> {_mean_and_error(after, n)}" for n in names]
        cells.append([row_name(row), "x".join(map(str, row["cells"])), *values])
    return ["map", "cells", *(COLUMNS[name] for name in names)], cells


def _select(
    rows: Sequence[Mapping[str, Any]], resolution: str, treatment: str
) -> list[Mapping[str, Any]]:
    return [r for r in rows if (r["resolution"], r["treatment"]) == (resolution, treatment)]


def _mean_and_error(scores: Mapping[str, Sequence[float]], name: str) -> str:
    """Mean, with the standard deviation over several encoders, or the standard error of one encoder's lift."""
    values = scores[name]
    if len(values) > 1:
        error = float(np.std(values, ddof=1))
    elif name.startswith("lift_"):
        error = scores.get(name.replace("lift_", "lift_se_"), [0.0])[0]
    else:
        error = 0.0
    return f"{np.mean(values):.2f}" + (f" ± {error:.2f}" if error else "")
