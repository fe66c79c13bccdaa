"""Online monitor of the embedding: kNN, retrieval and RankMe on the validation images."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ppssl.metrics.knn import KNNClassifier
from ppssl.metrics.rankme import RankMe
from ppssl.metrics.retrieval import RetrievalMetrics

__all__ = ["RepresentationMonitor"]

GALLERY, QUERIES = 0, 1


class RepresentationMonitor(Callback):
    """Log ``knn_top1``, ``retrieval_rank1``, ``retrieval_rank5``, ``retrieval_map`` and ``rankme`` under ``val/``.

    kNN classifies the queries by the gallery; retrieval ranks the queries among each other. ``ppssl test`` logs the
    same under ``test/``. Without labels the monitor is off, with one line that says so.

    Args:
        k: Number of neighbours that vote, at most the size of the gallery.
    """

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"`k` must be >= 1, got {k}.")
        self.k = k
        self._embeddings: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a data set without labels."""
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "has_labels") and not data.has_labels():
            rank_zero_info("No labels: kNN and retrieval are not monitored.")

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
        self._embeddings[dataloader_idx].append((outputs, batch["label"], batch["index"]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log, over all processes."""
        self._log(pl_module, "val", trainer.sanity_checking)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log, over all processes."""
        self._log(pl_module, "test", False)

    def _log(self, pl_module: LightningModule, stage: str, sanity_checking: bool) -> None:
        gallery, queries = self._embeddings[GALLERY], self._embeddings[QUERIES]
        if not gallery or not queries or sanity_checking:
            return
        k = min(self.k, sum(int((label >= 0).sum()) for _, label, _ in gallery))
        if k < 1:
            rank_zero_warn(
                "No image of the gallery has a label: kNN and retrieval are not monitored."
            )
            return
        knn = KNNClassifier(k=(k,)).to(pl_module.device)
        retrieval = RetrievalMetrics().to(pl_module.device)
        rankme = RankMe().to(pl_module.device)
        for batch in gallery:
            knn.update(*batch, gallery=True)
        for batch in queries:
            knn.update(*batch)
            retrieval.update(*batch)
            rankme.update(*batch)
        scores = retrieval.compute()
        values = {
            "knn_top1": knn.compute()[f"knn-{k}"],
            "retrieval_rank1": scores["rank-1"],
            "retrieval_rank5": scores["rank-5"],
            "retrieval_map": scores["mAP"],
            "rankme": rankme.compute(),
        }
        bar = {"knn_top1", "retrieval_rank1"}
        for name, value in values.items():
            pl_module.log(
                f"{stage}/{name}",
                value.float(),
                prog_bar=name in bar,
                add_dataloader_idx=False,
                batch_size=1,
            )
        self._embeddings = {}
