"""Figures of the loader benchmark: our views beside torchvision's, and histograms of the random parameters."""

from __future__ import annotations

import random

import numpy as np
import torch
from matplotlib.figure import Figure
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.studies.bench_loader.benchmark import with_moco_v2_views
from ppssl.studies.bench_loader.parameters import (
    PARAMETERS,
    our_parameters,
    torchvision_parameters,
)
from ppssl.studies.bench_loader.pipelines import make_pipelines
from ppssl.utils.plots.views import parameter_histograms, view_panel

__all__ = ["draw_parameters", "draw_views", "to_pixels"]

VIEWS = 4
"""Views of an image by each library."""
DRAWS = 4000
"""Views in the histograms."""


def draw_views(data: FineGrainedDataModule, image_size: int = 224, *, images: int = 8) -> Figure:
    """Draw images of a data module, with our views beside those of torchvision's MoCo v2."""
    data = with_moco_v2_views(data, image_size)
    _seed()
    source, pipelines = data.sources["train"], make_pipelines(data)
    count = min(images, len(source))
    numbers = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    originals = [pil_to_tensor(source.read(i)) for i in numbers]
    views = {
        name: [
            [to_pixels(v) for _ in range(VIEWS // 2) for v in pipelines[name](i)] for i in numbers
        ]
        for name in ("ppssl", "torchvision")
    }
    return view_panel(originals, views)


def draw_parameters(data: FineGrainedDataModule, image_size: int = 224) -> Figure:
    """Draw histograms of the views' random parameters, ours over torchvision's, for images of the data module."""
    data.setup()
    _seed()
    source = data.sources["train"]
    sizes = [source.read(i).size for i in range(min(32, len(source)))]
    values = {
        "ppssl": our_parameters(sizes, image_size, DRAWS),
        "torchvision": torchvision_parameters(sizes, image_size, DRAWS),
    }
    return parameter_histograms(values, PARAMETERS)


def to_pixels(view: Tensor) -> Tensor:
    """Undo the normalisation of a float view ``(3, H, W)``; uint8 views are returned unchanged."""
    if view.dtype == torch.uint8:
        return view
    std, mean = (
        torch.tensor(values)[:, None, None]
        for values in (IMAGENET_DEFAULT_STD, IMAGENET_DEFAULT_MEAN)
    )
    return (255 * (view * std + mean)).round().clamp(0, 255).to(torch.uint8)


def _seed() -> None:
    """Seed torchvision's random numbers; ours have their own seed."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
