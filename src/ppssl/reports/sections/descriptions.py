"""What the student says of images in the words of the corpus, for models that were trained with AIS."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ppssl.losses.ais.plugin import AIS
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import LeftOut, Section, per_run
from ppssl.utils.errors import UserError

__all__ = ["section"]

IMAGES = 12
"""Number of images."""
PHRASES = 3
"""Descriptions of an image."""


def section(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section."""
    return per_run(
        "descriptions",
        "In the words of the corpus",
        runs,
        lambda m: _content(m, pictures[m.run.name]),
    )


def _content(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    if measured.model is None:
        raise LeftOut(measured.no_model)
    plugins = dict(getattr(measured.model, "plugins", {})).values()
    plugin = next((p for p in plugins if isinstance(p, AIS)), None)
    if plugin is None:
        raise LeftOut("The model was not trained with AIS, which learns from a text corpus.")
    try:
        index = measured.images.index if measured.splits is None else measured.splits.queries.index
        places = np.linspace(0, len(index) - 1, min(IMAGES, len(index))).round().astype(int)
        rows = measured.rows(index[torch.from_numpy(places)])
        described = plugin.describe(measured.images.features[rows], k=PHRASES)
    except UserError as error:
        raise LeftOut(f"The model cannot describe images: {error}") from error
    return {
        "rows": [
            {
                "uri": pictures.uri(int(measured.images.index[row])),
                "class": measured.class_name(int(measured.images.labels[row])),
                "phrases": phrases,
            }
            for row, phrases in zip(rows, described, strict=True)
        ]
    }
