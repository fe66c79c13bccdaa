"""Figures while training: when they are drawn, of which images, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ppssl.data.dataset import collate
from ppssl.losses.base import LossPlugin

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from matplotlib.figure import Figure

    from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["FigureCallback", "log_figure", "probe_batch"]

P = TypeVar("P", bound=LossPlugin)


class FigureCallback(Callback, Generic[P]):
    """Base of the callbacks that watch the plugins of one type and draw training images every few epochs.

    Args:
        every_n_epochs: How often a figure is drawn; 0: never.
        num_images: How many images it has, evenly spaced among the training images.
    """

    plugin_type: type[P]
    """Which plugins it watches; each subclass names its own."""

    def __init__(self, every_n_epochs: int, num_images: int) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"`every_n_epochs` must be >= 0, got {every_n_epochs}.")
        if num_images < 1:
            raise ValueError(f"`num_images` must be >= 1, got {num_images}.")
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images

    def should_draw(self, epoch: int) -> bool:
        """Whether the epoch, from 0, ends with a figure."""
        return self.every_n_epochs > 0 and (epoch + 1) % self.every_n_epochs == 0

    def plugins(self, module: Any) -> dict[str, P]:
        """The watched plugins of a :class:`ppssl.PPSSL`, by name."""
        found = module.plugins.items()
        return {name: plugin for name, plugin in found if isinstance(plugin, self.plugin_type)}


@rank_zero_only
def log_figure(trainer: Trainer, name: str, figure: Figure, step: int) -> None:
    """Show a figure.

    Args:
        trainer: Its TensorBoard loggers get it; where it has none, ``<log_dir>/figures/<name>-<step>.png`` does.
        name: As in ``ais/descriptions``.
        figure: A figure of matplotlib.
        step: The global step.
    """
    boards = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
    for board in boards:
        board.experiment.add_figure(name, figure, step)
    if not boards:
        # Not `trainer.log_dir`: it waits for the other processes, and they are not here.
        places = (getattr(trainer.logger, name, None) for name in ("log_dir", "save_dir"))
        folder = next((place for place in places if place), trainer.default_root_dir)
        path = Path(folder) / "figures" / f"{name.replace('/', '-')}-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def probe_batch(data: FineGrainedDataModule, count: int) -> dict[str, Any]:
    """The same training images each time, evenly spaced, un-augmented.

    Args:
        data: The data module, after its ``setup``.
        count: How many; where there are fewer, and where broken ones are skipped, it is fewer.

    Returns:
        ``image`` ``(n, 3, S, S)`` uint8, ``index`` and ``label`` ``(n,)`` int64, ascending by index.

    Raises:
        UserError: An image is broken, and ``on_error`` is ``"raise"``; or all are.
    """
    items = np.linspace(0, data.num_train - 1, min(count, data.num_train)).round().astype(int)
    probes = data.eval_dataset("train", items)
    batch = data.on_before_batch_transfer(collate([probes[i] for i in range(len(probes))]), 0)
    _, once = np.unique(batch["index"], return_index=True)  # another probe in a broken one's place
    return {name: values[once] for name, values in batch.items()}
