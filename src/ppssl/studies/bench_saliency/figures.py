"""Figures of the saliency benchmark: bar charts of the scores, and example maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppssl.studies.bench_saliency.attributions import AttributionMethod
from ppssl.studies.bench_saliency.benchmark import SaliencyBenchmark
from ppssl.studies.bench_saliency.scores import treated_maps
from ppssl.studies.bench_saliency.tables import COLUMNS, row_name
from ppssl.utils.plots.saliency import saliency_bars, saliency_panel

__all__ = ["draw_bars", "draw_examples"]

_SCORES = ("lift_part", "lift_bird", "focus", "reproducibility", "other_image", "like_contrast")
"""Scores in the bar charts."""
_EXAMPLES = 5
"""Number of example images."""


def draw_bars(content: Mapping[str, Any]) -> Figure:
    """Draw the scores of the plain maps with target similarity, at equal resolution and at each layer's own."""
    plain = [r for r in content["rows"] if r["treatment"] == "plain" and r["target"] != "loss"]
    groups = {
        "equal resolution": [row for row in plain if row["resolution"] == "equal"],
        "own resolution": [row for row in plain if row["resolution"] == "own"],
    }
    scores = groups["equal resolution"][0]["after"]
    headings = {name: COLUMNS[name] for name in _SCORES if name in scores}
    names = {title: [row_name(row) for row in rows] for title, rows in groups.items()}
    return saliency_bars(groups, names, headings)


def draw_examples(benchmark: SaliencyBenchmark) -> Figure:
    """Draw A* of some images by the first checkpoint, from each layer at its own resolution.

    The map of the image is also drawn pooled to the output's grid. The part by which the image's class differs from its
    nearest class is outlined if the data set has part masks.
    """
    probes, attributions = benchmark.probes, benchmark.attributions
    count = min(_EXAMPLES, len(probes.images))
    rows = torch.linspace(0, len(probes.images) - 1, count).long()
    output = next(m for method, m in attributions.items() if method.source == "output")
    maps: dict[str, Tensor] = {}
    for method, signed in attributions.items():
        if method.target == "loss":
            continue
        grid = (signed.shape[2], signed.shape[3])
        title = method.source if method.reference is None else f"{method.source} {method.reference}"
        maps[title] = treated_maps(signed[:, rows], grid, "pool_relu", "plain")[0]
        if method == AttributionMethod("image", "blur", "similarity"):
            output_grid = (output.shape[2], output.shape[3])
            pooled = treated_maps(signed[:, rows], output_grid, "relu_pool", "plain")
            maps[f"{title}, pooled"] = pooled[0]
    outlines = probes.masks["part"][rows] if "part" in probes.masks else None
    return saliency_panel(probes.images[rows], maps, outlines)
