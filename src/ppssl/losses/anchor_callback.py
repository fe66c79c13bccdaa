"""Callback of Anchor: shows where the starting encoder looks closer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ppssl.callbacks.example_images import example_batch
from ppssl.callbacks.figure_logging import SingleFigureCallback, log_figure
from ppssl.text.teachers.base import of_channels
from ppssl.utils.plots.saliency import map_panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.losses.anchor import Anchor
    from ppssl.text.teachers.zoom import ZoomTeacher

__all__ = ["AnchorCallback", "draw_windows"]


class AnchorCallback(SingleFigureCallback):
    """Show the windows of training images that the starting encoder looks at closer."""

    def draw(self, trainer: Trainer, module: Any, name: str, plugin: Anchor) -> None:
        """Draw the windows, if there are any."""
        data: FineGrainedDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        teacher = plugin.closer(data)
        if teacher is not None:
            figure = draw_windows(teacher.to(module.device), data, self.num_images)
            log_figure(trainer, f"{name}/windows", figure, trainer.global_step)


@torch.no_grad()
def draw_windows(teacher: ZoomTeacher, data: FineGrainedDataModule, count: int) -> Figure:
    """Panel of training images with the window that a teacher looks at, and what it sees of it."""
    seen = teacher.look(example_batch(data, count, teacher.transform)["image"])

    def shown(images: Tensor) -> Tensor:
        mean, std = (of_channels(values, images) for values in (teacher.mean, teacher.std))
        return (images * std + mean).clamp(0, 1)

    corners = seen.windows.flip(1) / seen.side
    sides = torch.full_like(corners, seen.whole.shape[-1] / seen.side)
    boxes = torch.cat([corners, sides], dim=1)
    titles = ("image, window", "where it is salient", "window")
    return map_panel(shown(seen.whole), seen.saliency, shown(seen.closer), titles, boxes)
