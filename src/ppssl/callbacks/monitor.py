"""Online monitor of the embedding: kNN, retrieval and RankMe on the validation images."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ppssl.callbacks.diagnostics import diagnostic
from ppssl.callbacks.label_free import embed_two_views, label_free_values
from ppssl.callbacks.labels import report_missing_labels
from ppssl.callbacks.start_and_end import report_start_and_end
from ppssl.metrics.knn import KNNClassifier
from ppssl.metrics.rankme import RankMe
from ppssl.metrics.retrieval import RetrievalMetrics
from ppssl.utils.checks import check_range
from ppssl.utils.results import write_json

__all__ = ["RepresentationMonitor", "validation_interval"]

GALLERY, QUERIES = 0, 1
SHARE = 0.05
"""Time of the validations relative to that of the training, at most."""
COST = 0.25
"""Time of a validated image relative to an image of a training step.

MoCo: one forward pass, where a training image has that of the query, its backward pass (as long as two) and that of the
key. The loader's share is about the same: decoding and a crop, where a training image has two augmented views. Other
objectives and the plugins take longer for an image, so that the validations take less than ``SHARE``.
"""


_Batch = tuple[Tensor, Tensor, Tensor]
"""Embeddings, labels and index."""


def validation_interval(train_images: float, val_images: float) -> int:
    """Return the smallest number of epochs between two validations that keeps them within ``SHARE`` of the time.

    Args:
        train_images: Training images of an epoch.
        val_images: Images of a validation, gallery and queries.
    """
    return max(1, math.ceil(COST * val_images / (SHARE * train_images) - 1e-9))


class RepresentationMonitor(Callback):
    """Log ``knn_top1``, ``retrieval_rank1``, ``retrieval_rank5``, ``retrieval_map`` and ``rankme`` under ``val/``.

    kNN classifies the queries by the gallery; retrieval ranks the queries among each other. ``ppssl test`` logs the
    same under ``test/``. Without labels the monitor is off, and values that are not defined are left out, with one line
    that says so.

    A validation embeds all labelled images. The monitor lets the Trainer validate in every n-th epoch, and in the last
    one that is trained to its end; in the others ``trainer.limit_val_batches`` is 0.

    Args:
        k: Number of neighbours that vote, at most all of the gallery.
        every_n_epochs: n. ``None``: :func:`validation_interval`, at most 5 % of the time of a long run; but 1 if
            another callback monitors a value under ``val/``, or the Trainer has an interval of its own
            (``check_val_every_n_epoch`` or ``val_check_interval``).
        compare_with_start: Validate before the first step too, in place of Lightning's sanity check, and at the end of
            the training show a table of start and end, which is also written to ``start_and_end.json`` in the folder of
            the logger. Without labels two views of 512 training images are compared
            (:func:`~ppssl.callbacks.label_free.label_free_values`).

    Attributes:
        start: Values before the first step, fractions by name; empty if they were not measured.
        end: Values of the last validation.
        end_epoch: Number of finished epochs at the last validation.
    """

    def __init__(
        self, k: int = 5, every_n_epochs: int | None = None, compare_with_start: bool = True
    ) -> None:
        check_range(">= 1", k=k, every_n_epochs=every_n_epochs)
        self.k = k
        self.every_n_epochs = every_n_epochs
        self.compare_with_start = compare_with_start
        self.start: dict[str, float] = {}
        self.end: dict[str, float] = {}
        self.end_epoch = 0
        self._interval = 1
        self._limit_val_batches: int | float | None = None
        self._embeddings: dict[int, list[_Batch]] = {}
        self._left_out: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say why nothing will be monitored, if so."""
        report_missing_labels(trainer, stage, "kNN and retrieval are")
        if stage == "fit" and self.compare_with_start and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by its connector
            trainer.num_sanity_val_steps = math.inf
        self.start, self.end = {}, {}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The start of a resumed run is that of its first part, see :meth:`load_state_dict`."""
        if self.compare_with_start:
            trainer.num_sanity_val_steps = 0

    # -- when -----------------------------------------------------------------------------------------------------

    def should_validate(self, epoch: int, interval: int, epochs: int | None) -> bool:
        """Return whether an epoch ends with a validation.

        Args:
            epoch: The epoch, from 0.
            interval: Epochs between two validations.
            epochs: Number of epochs that are trained to their end; ``None``: unknown.
        """
        return (epoch + 1) % interval == 0 or epoch + 1 == epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the interval; a run that is resumed within an epoch does not start an epoch."""
        self._limit_val_batches = trainer.limit_val_batches
        self._interval = self.every_n_epochs or _automatic_interval(trainer)
        if self._interval > 1:
            rank_zero_info(
                f"Validation in every {self._interval} epochs and the last one: change it by `every_n_epochs` of "
                "RepresentationMonitor."
            )
        with diagnostic(self, trainer, "the comparison of views"):
            if self._compares_views(trainer) and not self.start:
                self.start = label_free_values(*embed_two_views(pl_module, trainer.datamodule))  # type: ignore[attr-defined]  # set by fit
        self.on_train_epoch_start(trainer, pl_module)

    def _compares_views(self, trainer: Trainer) -> bool:
        """Whether start and end are compared without labels, in the first process."""
        data: Any = getattr(trainer, "datamodule", None)
        unlabelled = hasattr(data, "normalise_with") and not data.val_dataloader()
        wanted = self.compare_with_start and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by its connector
        return wanted and unlabelled and trainer.is_global_zero

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn validation on or off for this epoch."""
        if self._interval > 1 and self._limit_val_batches is not None:
            due = self.should_validate(trainer.current_epoch, self._interval, _epochs(trainer))
            trainer.limit_val_batches = self._limit_val_batches if due else 0

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Turn validation on."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turn validation on."""
        if self._limit_val_batches is not None:
            trainer.limit_val_batches = self._limit_val_batches
        self._limit_val_batches = None

    # -- what -----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the embeddings of the previous validation."""
        self._embeddings = {GALLERY: [], QUERIES: []}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        embeddings, self._embeddings = self._embeddings, {}  # none of a part after an error
        with diagnostic(self, trainer, "kNN and retrieval", collective=True):
            embeddings[dataloader_idx].append((outputs, batch["label"], batch["index"]))
            self._embeddings = embeddings

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log, over all processes."""
        with diagnostic(self, trainer, "kNN and retrieval", collective=True):
            self._log(pl_module, "val", trainer.sanity_checking)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log, over all processes."""
        self._log(pl_module, "test", False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show and write what was at the start and is at the end."""
        folder = trainer.log_dir  # all processes ask for it, and only the first one compares views
        with diagnostic(self, trainer, "the comparison of start and end"):
            if self._compares_views(trainer) and self.start:
                self.end = label_free_values(*embed_two_views(pl_module, trainer.datamodule))  # type: ignore[attr-defined]  # set by fit
                self.end_epoch = trainer.current_epoch
            if not self.start or not self.end or not trainer.is_global_zero:
                return
            pretrained = bool(getattr(pl_module, "pretrained", False))
            report_start_and_end(self.start, self.end, self.end_epoch, pretrained=pretrained)
            if trainer.logger is not None and folder is not None:
                write_json(Path(folder) / "start_and_end.json", self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Start and end, for checkpoints."""
        return {"start": self.start, "end": self.end, "end_epoch": self.end_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.start, self.end = dict(state_dict["start"]), dict(state_dict["end"])
        self.end_epoch = state_dict["end_epoch"]

    def _log(self, pl_module: LightningModule, stage: str, sanity_checking: bool) -> None:
        gallery, queries = self._embeddings[GALLERY], self._embeddings[QUERIES]
        if gallery and not queries and self._left_out != ["queries"]:
            rank_zero_warn(
                "kNN and retrieval are not monitored: they need two loaders, gallery and queries, and there is one."
            )
            self._left_out = ["queries"]
        if not gallery or not queries or (sanity_checking and not self.compare_with_start):
            return
        values = self._values(pl_module, gallery, queries)
        known = {name: float(value) for name, value in values.items() if not value.isnan()}
        if sanity_checking:
            self.start = known
            return
        if stage == "val":
            self.end, self.end_epoch = known, pl_module.current_epoch + 1
        left_out = [name for name, value in values.items() if value.isnan()]
        if left_out and left_out != self._left_out:
            rank_zero_warn(
                f"Not monitored: {', '.join(left_out)}. kNN needs a label in the gallery and one among the queries, "
                "retrieval two queries of the same class."
            )
        self._left_out = left_out
        for name, value in values.items():
            if name not in left_out:
                pl_module.log(
                    f"{stage}/{name}",
                    value.float(),
                    prog_bar=name in ("knn_top1", "retrieval_rank1"),
                    add_dataloader_idx=False,
                    batch_size=1,
                )
        self._embeddings = {}

    def _values(
        self, pl_module: LightningModule, gallery: Sequence[_Batch], queries: Sequence[_Batch]
    ) -> dict[str, Tensor]:
        """The metrics by name, over all processes; NaN where one is not defined."""
        knn = KNNClassifier(k=(self.k,), fewer=True).to(pl_module.device)
        retrieval = RetrievalMetrics().to(pl_module.device)
        rankme = RankMe().to(pl_module.device)
        for batch in gallery:
            knn.update(*batch, gallery=True)
        for batch in queries:
            knn.update(*batch)
            retrieval.update(*batch)
            rankme.update(*batch)
        with warnings.catch_warnings():  # the monitor names what is NaN itself
            warnings.filterwarnings("ignore", message=".*no valid query, so the result is NaN")
            scores = retrieval.compute()
            return {
                "knn_top1": knn.compute()[f"knn-{self.k}"],
                "retrieval_rank1": scores["rank-1"],
                "retrieval_rank5": scores["rank-5"],
                "retrieval_map": scores["mAP"],
                "rankme": rankme.compute(),
            }


def _automatic_interval(trainer: Trainer) -> int:
    """The interval by the sizes of a run, 1 where somebody else needs each validation or chooses them."""
    monitored = [str(getattr(callback, "monitor", None)) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    chosen = trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1.0
    if chosen or any(name.startswith("val/") for name in monitored):
        return 1
    train = _images([trainer.train_dataloader], [trainer.num_training_batches])
    loaders = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    return validation_interval(train, _images(loaders, trainer.num_val_batches))


def _images(loaders: Sequence[Any], batches: Sequence[float]) -> float:
    """Images in the batches of one process."""
    sizes = [getattr(loader, "batch_size", None) or 1 for loader in loaders]
    return sum(size * number for size, number in zip(sizes, batches, strict=False))


def _epochs(trainer: Trainer) -> int | None:
    """Number of epochs that a run trains to their end; ``None``: unknown."""
    limits = [] if trainer.max_epochs in (None, -1) else [trainer.max_epochs]
    batches = trainer.num_training_batches
    if trainer.max_steps != -1 and batches < math.inf:
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        limits.append(trainer.max_steps // steps)
    return min(limits, default=None)
