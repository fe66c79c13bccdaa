"""Callback for classifiers: logs validation accuracies and draws the most confused pairs of classes."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.callbacks.diagnostics import diagnostic
from ppssl.callbacks.figure_logging import log_figure
from ppssl.callbacks.labels import report_missing_labels
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.metrics.classification import (
    ClassificationMetrics,
    confused_pairs,
    confusion_matrix,
)
from ppssl.utils.checks import check_range
from ppssl.utils.plots.confusion import ConfusedPair, confusion_panel

__all__ = ["ClassificationMonitor", "confused_examples"]


class ClassificationMonitor(Callback):
    """Log top-1, top-5 and macro accuracy under ``val/`` (``test/`` for ``ppssl test``), and draw confused classes.

    Args:
        pairs: Number of pairs in the figure ``val/confusion``, those most often taken for each other; 0: no figure.
        every_n_epochs: Epochs between two figures; one is also drawn after the last epoch and after a test.
    """

    def __init__(self, pairs: int = 6, every_n_epochs: int = 10) -> None:
        check_range(">= 0", pairs=pairs)
        check_range(">= 1", every_n_epochs=every_n_epochs)
        self.pairs = pairs
        self.every_n_epochs = every_n_epochs
        self._metrics: ClassificationMetrics | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say why nothing will be monitored, if so."""
        report_missing_labels(trainer, stage, "accuracy is")

    def should_draw(self, epoch: int, last: bool) -> bool:
        """Whether a figure is due at the end of an epoch, counted from 0."""
        return self.pairs > 0 and (last or (epoch + 1) % self.every_n_epochs == 0)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with empty metrics."""
        classes: Any = pl_module.classes
        self._metrics = ClassificationMetrics(len(classes)).to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the logits of a batch."""
        metrics, self._metrics = self._metrics, None  # none of a part of the images after an error
        with diagnostic(self, trainer, "accuracies", collective=True):
            if metrics is not None:
                metrics.update(outputs.float(), batch["label"], batch["index"])
            self._metrics = metrics

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log, over all processes."""
        last = not trainer.training and not trainer.validating
        last |= trainer.current_epoch + 1 == trainer.max_epochs
        self._log(
            trainer, pl_module, "val", draw=self.should_draw(trainer.current_epoch, bool(last))
        )

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log, over all processes."""
        self._log(trainer, pl_module, "test", draw=self.pairs > 0)

    def _log(self, trainer: Trainer, pl_module: Any, stage: str, *, draw: bool) -> None:
        metrics, self._metrics = self._metrics, None
        if metrics is None or trainer.sanity_checking:
            return
        found: dict[str, Tensor] = {}
        with diagnostic(self, trainer, "accuracies", collective=True):
            found = self._log_accuracies(pl_module, metrics, stage)
        if found and draw and trainer.is_global_zero:
            with diagnostic(self, trainer, "confused classes"):
                self._draw(trainer, pl_module, found, stage)

    def _log_accuracies(
        self, pl_module: Any, metrics: ClassificationMetrics, stage: str
    ) -> dict[str, Tensor]:
        """All metrics, over all processes; empty if no image has a label."""
        found = metrics.compute()
        if not len(found["index"]):
            rank_zero_warn(f"No {stage} image has a label: nothing to compare with.")
            return {}
        for name in ("top1", "top5", "macro"):
            pl_module.log(f"{stage}/{name}", found[name], prog_bar=name == "top1", batch_size=1)
        return found

    def _draw(self, trainer: Trainer, pl_module: Any, found: dict[str, Tensor], stage: str) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, FineGrainedDataModule):
            return
        rows = {name: found[name].cpu() for name in ("index", "label", "predicted")}
        pairs = confused_examples(data, rows, pl_module.classes, self.pairs)
        title = f"Most confused classes; top-1 {100 * float(found['top1']):.1f} %"
        log_figure(
            trainer, f"{stage}/confusion", confusion_panel(pairs, title), trainer.global_step
        )


def confused_examples(
    data: FineGrainedDataModule, rows: dict[str, Tensor], classes: list[str], count: int
) -> list[ConfusedPair]:
    """Select the most confused pairs, with an image of each class: one that was taken for the other if there is one.

    Args:
        data: The data set of the images.
        rows: ``index``, ``label`` and ``predicted``, as ``ClassificationMetrics`` computes them.
        classes: Class names.
        count: Largest number of pairs.
    """
    index, label, predicted = rows["index"], rows["label"], rows["predicted"]
    confusion = confusion_matrix(label, predicted, len(classes))
    pairs = []
    for pair in confused_pairs(confusion, count):
        images, mistaken = [], []
        for this, other in (pair, pair[::-1]):
            wrong = torch.nonzero((label == this) & (predicted == other))[:, 0]
            of_class = torch.nonzero(label == this)[:, 0]
            chosen = wrong if len(wrong) else of_class
            mistaken.append(len(wrong) > 0)
            images.append(_image(data, int(index[chosen[0]]) if len(chosen) else None))
        pairs.append(
            ConfusedPair(
                names=(classes[pair[0]], classes[pair[1]]),
                counts=confusion[list(pair)][:, list(pair)],
                totals=(int(confusion[pair[0]].sum()), int(confusion[pair[1]].sum())),
                images=(images[0], images[1]),
                mistaken=(mistaken[0], mistaken[1]),
            )
        )
    return pairs


def _image(data: FineGrainedDataModule, index: int | None) -> Tensor:
    """An un-augmented image; a white one if ``index`` is ``None``."""
    if index is None:
        return torch.full((3, data.image_size, data.image_size), 255, dtype=torch.uint8)
    split, number = data.locate(index)
    return data.eval_dataset(split, np.array([number]))[0]["image"]
