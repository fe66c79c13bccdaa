"""Callback of BackgroundSwap: shows what the encoder sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from ppssl.callbacks.example_images import example_batch
from ppssl.callbacks.figure_logging import SingleFigureCallback, log_figure
from ppssl.losses.background.maps import whole_square
from ppssl.utils.plots.saliency import map_panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.losses.background.plugin import BackgroundSwap

__all__ = ["BackgroundCallback", "draw_swaps"]


class BackgroundCallback(SingleFigureCallback):
    """Show training images, their maps, and the images on other backgrounds."""

    def draw(self, trainer: Trainer, module: Any, name: str, plugin: BackgroundSwap) -> None:
        """Draw the images and what is made of them."""
        data: FineGrainedDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        figure = draw_swaps(plugin, data, self.num_images)
        log_figure(trainer, f"{name}/backgrounds", figure, trainer.global_step)


@torch.no_grad()
def draw_swaps(plugin: BackgroundSwap, data: FineGrainedDataModule, count: int) -> Figure:
    """Panel of whole training images, their maps, and what is made of them."""
    batch = example_batch(data, count, whole_square)
    images = batch["image"].float()
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).expand(len(images), 2, 5)
    seen = plugin.edit_batch(batch | {"views": [images, images], "geometry": whole})
    maps = plugin.maps_of(batch["index"])
    titles = ("image", "where it is salient", "what the encoder sees")
    return map_panel(images, maps, seen["views"][0].clamp(0, 1), titles)
