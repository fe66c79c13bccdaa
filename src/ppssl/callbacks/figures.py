"""Where figures go: to TensorBoard where there is one, else to PNG files beside the run's other logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ppssl.data.augment import center_view

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from matplotlib.figure import Figure

    from ppssl.data.base import FineGrainedDataModule

__all__ = ["log_figure", "probe_batch"]


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
        folder = trainer.log_dir or trainer.default_root_dir
        path = Path(folder) / "figures" / f"{name.replace('/', '-')}-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def probe_batch(data: FineGrainedDataModule, count: int) -> dict[str, Any]:
    """The same training images each time, evenly spaced, un-augmented: ``image`` ``(n, 3, S, S)`` uint8, ``index``."""
    items = np.linspace(0, data.num_train - 1, min(count, data.num_train)).round().astype(int)
    source, offset = data.sources["train"], data.offset("train")
    images = [center_view(source.load(int(i)), data.image_size, data.eval_crop) for i in items]
    return {"image": torch.stack(images), "index": torch.from_numpy(items + offset)}
