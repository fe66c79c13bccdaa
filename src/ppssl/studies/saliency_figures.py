"""The figures of :func:`ppssl.studies.bench_saliency.bench_saliency`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure

from ppssl.studies.attributions import Place
from ppssl.studies.bench_saliency import Measured, treated
from ppssl.studies.saliency_table import COLUMNS, row_name
from ppssl.utils.plots.saliency import saliency_bars, saliency_panel

__all__ = ["draw_bars", "draw_examples"]

_DRAWN = ("lift_part", "lift_bird", "focus", "reproducibility", "other_image", "like_contrast")
_EXAMPLES = 5


def draw_bars(content: Mapping[str, Any]) -> Figure:
    """Bars of the plain maps for the target similarity, at equal and at own resolution."""
    rows = [r for r in content["rows"] if r["treatment"] == "plain" and r["target"] != "loss"]
    equal = [r for r in rows if r["resolution"] == "equal"]
    own = [r for r in rows if r["resolution"] == "own"]
    known = {name: COLUMNS[name] for name in _DRAWN if name in equal[0]["after"]}
    groups = {"equal resolution": equal, "own resolution": own}
    names = {title: [row_name(r) for r in chosen] for title, chosen in groups.items()}
    return saliency_bars(groups, names, known)


def draw_examples(measured: Measured) -> Figure:
    """A* of some images by the first checkpoint: each place at its own resolution, the image's pooled too.

    The part by which the bird's class differs from its nearest one is outlined where it is known.
    """
    probes = measured.probes
    count = min(_EXAMPLES, len(probes.images))
    chosen = torch.linspace(0, len(probes.images) - 1, count).long()
    grid = next(m for p, m in measured.attributions.items() if p.source == "output").shape[2:]
    maps = {}
    for place, signed in measured.attributions.items():
        if place.target != "loss":
            own = (signed.shape[2], signed.shape[3])
            title = " ".join(filter(None, place[:2]))
            maps[title] = treated(signed[:, chosen], own, "pool_relu", "plain")[0]
            if place == Place("image", "blur", "similarity"):
                pooled = treated(signed[:, chosen], (grid[0], grid[1]), "relu_pool", "plain")
                maps[f"{title}, pooled"] = pooled[0]
    outlines = probes.masks["part"][chosen] if "part" in probes.masks else None
    return saliency_panel(probes.images[chosen], maps, outlines)
