"""The tables of :func:`ppssl.studies.bench_saliency.bench_saliency`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["COLUMNS", "after_rows", "markdown_tables", "row_name"]

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
"""What is shown of the metrics, under which heading; r is a correlation over the cells."""
_SHORT = {
    "lift_part": "part",
    "lift_bird": "bird",
    "focus": "part/bird",
    "reproducibility": "r same",
    "other_image": "r other",
    "like_contrast": "r contrast",
}


def row_name(row: Mapping[str, Any]) -> str:
    """What a row is of, as in ``image blur, loss, relu_pool``."""
    parts = [f"{row['source']} {row['reference']}" if row["reference"] else row["source"]]
    parts += [row["target"]] if row["target"] == "loss" else []
    parts += [row["order"]] if row["order"] != "pool_relu" else []
    return ", ".join(parts)


def _table_rows(
    rows: Sequence[Mapping[str, Any]], *, resolution: str, treatment: str
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, ``before -> after``, of one resolution and treatment."""
    chosen = [r for r in rows if (r["resolution"], r["treatment"]) == (resolution, treatment)]
    columns = [name for name in COLUMNS if all(name in row["after"] for row in chosen)]
    cells = [
        [
            row_name(row),
            "x".join(map(str, row["cells"])),
            *(f"{_text(row['before'], c)} -> {_text(row['after'], c)}" for c in columns),
        ]
        for row in chosen
    ]
    return ["map", "cells", *(COLUMNS[c] for c in columns)], cells


def after_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a narrow table: trained encoders, similarity, equal resolution, plain."""
    chosen = [r for r in rows if (r["resolution"], r["treatment"]) == ("equal", "plain")]
    chosen = [row for row in chosen if row["target"] != "loss"]
    columns = [name for name in _SHORT if name in chosen[0]["after"]]
    cells = [
        [row_name(row), *(f"{np.mean(row['after'][name]):.2f}" for name in columns)]
        for row in chosen
    ]
    return ["map", *(_SHORT[name] for name in columns)], cells


def _text(metrics: Mapping[str, Sequence[float]], name: str) -> str:
    """The mean; the standard deviation over several encoders, or a lift's standard error over images."""
    values = metrics[name]
    error = metrics.get(name.replace("lift_", "lift_se_"), [0.0])[0] if "lift" in name else 0.0
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else error
    return f"{np.mean(values):.2f}" + (f" ± {spread:.2f}" if spread else "")


def markdown_tables(content: Mapping[str, Any]) -> str:
    """All rows: a table for each resolution and treatment, with a line on how to read them."""
    arguments, seen = content["arguments"], content["images_with"]
    counted = "; ".join(f"{name} seen in {count}" for name, count in seen.items())
    lines = [
        f"{arguments['images']} images ({counted or 'no masks'}), checkpoints: {arguments['checkpoints']}. "
        "Before -> after training; ± is the standard deviation over checkpoints, or, of one, a lift's standard error "
        "over images. `ppssl.studies.bench_saliency.map_scores` says what each column is; `contrast` is no "
        "model at all. "
        f"Target similarity and order pool_relu unless named; sharpen is gamma {arguments['gamma']:g}.",
    ]
    pairs = dict.fromkeys((r["resolution"], r["treatment"]) for r in content["rows"])
    for resolution, treatment in pairs:
        headings, cells = _table_rows(content["rows"], resolution=resolution, treatment=treatment)
        lines += ["", f"## {resolution.capitalize()} resolution, {treatment}", ""]
        lines += [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"
