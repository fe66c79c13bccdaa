"""Saliency maps: which pixels the embedding depends on, and what IADM's branch attends to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.data.normalisation import normalised
from ppssl.encoder import evaluation_mode
from ppssl.inference.explain import explain_views
from ppssl.losses.iadm.callback import probe_maps
from ppssl.losses.iadm.plugin import IADM
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures, data_uri, heatmap
from ppssl.reports.section import LeftOut, Section, per_run

__all__ = ["section"]

IMAGES = 8
"""Number of images."""
MEANINGS = {
    "image GradCAM": "image times gradient: which pixels raise the similarity with the mirrored image",
    "A*": "the same, averaged over cells: what IADM teaches its branch",
    "branch": "what IADM's branch attends to",
    "pooled": "the same, averaged over cells of 8 pixels",
    "output Grad-CAM": "Grad-CAM at the last layer, for comparison",
}
"""What each map says."""


def section(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section."""
    return per_run(
        "saliency", "What the encoder looks at", runs, lambda m: _content(m, pictures[m.run.name])
    )


def _content(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    if measured.model is None:
        raise LeftOut(measured.no_model)
    index = _chosen(measured)
    views = torch.stack([pictures.view(int(i)) for i in index])
    maps = _maps(measured, views, index)
    rows = [
        {
            "uri": data_uri(Image.fromarray(view.permute(1, 2, 0).numpy())),
            "class": measured.class_name(_label(measured, int(i))),
            "maps": [(title, heatmap(view, values[row])) for title, values in maps.items()],
        }
        for row, (view, i) in enumerate(zip(views, index, strict=True))
    ]
    return {"rows": rows, "titles": {title: MEANINGS.get(title, "") for title in maps}}


def _chosen(measured: Measured) -> Tensor:
    """Evenly spaced queries of the evaluation; without labels evenly spaced images."""
    index = measured.images.index if measured.splits is None else measured.splits.queries.index
    places = np.linspace(0, len(index) - 1, min(IMAGES, len(index))).round().astype(int)
    return index[torch.from_numpy(places)]


def _label(measured: Measured, index: int) -> int:
    (row,) = measured.rows(torch.tensor([index]))
    return int(measured.images.labels[row])


def _maps(measured: Measured, views: Tensor, index: Tensor) -> dict[str, Tensor]:
    """IADM's maps if the model was trained with it, else those of ``ppssl explain``; each ``(n, h, w)``."""
    model = measured.model
    plugins = dict(getattr(model, "plugins", {}))
    iadm = next((p for p in plugins.values() if isinstance(p, IADM)), None)
    with evaluation_mode(model):
        if iadm is None:
            return explain_views(model, views)
        info = model.encoder.info
        with normalised(measured.data, info.mean, info.std):
            return probe_maps(model, iadm, measured.data, {"image": views, "index": index})
