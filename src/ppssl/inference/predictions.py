"""Writer of ``ppssl predict``: one row per image, with its embedding or its class, in a Parquet file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.inference.embed import image_columns
from ppssl.inference.embedding_file import list_column, write_table
from ppssl.utils.paths import AnyPath, expand, writable_parquet, writing

__all__ = ["PredictionWriter"]


class PredictionWriter(Callback):
    """Write what a Trainer predicts: embeddings, or the classes of a classifier with their probabilities.

    The file has the columns of :func:`ppssl.embed`: ``split``, ``path``, ``class``, ``label``, ``index``, and
    ``embedding``; of a classifier, in place of it ``predicted`` (a class name), ``probability`` and ``probabilities``
    (one per class, in the order of ``model.classes``). It has no fingerprint of the encoder: ``ppssl embed`` writes
    files to evaluate and to search. Nothing is written in a trial (``fast_dev_run``) and of data modules that are not
    ppssl's, whose images have no names.

    Args:
        out: The ``.parquet`` file, which is written in one step; ``None``: ``predictions.parquet`` in the folder of the
            run's logs. Of several processes each writes the images that it had, to ``predictions-<rank>.parquet``.
    """

    def __init__(self, out: AnyPath | None = None) -> None:
        self.out = out
        self._path = Path()
        self._data: FineGrainedDataModule | None = None
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the file can be written, and that the images have names and numbers for it."""
        self._rows = []
        self._data = _own_data(trainer)
        if self._data is None:
            return
        folder = trainer.log_dir or trainer.default_root_dir
        path = expand(folder) / "predictions.parquet" if self.out is None else expand(self.out)
        if trainer.world_size > 1:
            path = path.with_stem(f"{path.stem}-{trainer.global_rank}")
        self._path = writable_parquet(path)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the outputs of a batch, if they are one vector per image."""
        if self._data is not None and isinstance(outputs, Tensor) and outputs.ndim == 2:
            values = (outputs.float(), batch["label"], batch["index"])
            self._rows.append(tuple(value.cpu() for value in values))  # type: ignore[arg-type]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if self._data is None:
            return
        if not self._rows:
            rank_zero_warn(
                "No predictions are written: `predict_step` must return a tensor (images, values)."
            )
            return
        import pyarrow as pa

        outputs, labels, index = (torch.cat(part) for part in zip(*self._rows, strict=True))
        # Sorted and unique: where a broken image was replaced, the substitute occurs twice.
        _, rows = np.unique(index, return_index=True)
        outputs, labels, index = outputs[rows], labels[rows], index[rows]
        columns = image_columns(self._data, index, labels) | _prediction_columns(pl_module, outputs)
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_table(pa.table(columns), self._path)
        rank_zero_info(f"Predictions of {len(index):,} images: {self._path}")


def _own_data(trainer: Trainer) -> FineGrainedDataModule | None:
    """The data module; ``None``, with one line, where nothing is written: in a trial, or of other data."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # its constructor sets it
        rank_zero_info("No predictions are written: `trainer.fast_dev_run` is a trial.")
        return None
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, FineGrainedDataModule):
        return data
    rank_zero_warn(
        "No predictions are written: images have names and numbers in ppssl's data modules only, such as "
        "`ppssl.FolderDataModule` or, of data of your own, `ppssl.DatasetDataModule`; `Trainer.predict` returns them."
    )
    return None


def _prediction_columns(model: Any, outputs: Tensor) -> dict[str, Any]:
    """Columns of embeddings ``(N, D)``, or of a classifier's logits ``(N, K)``."""
    import pyarrow as pa

    classes = getattr(model, "classes", None)
    if classes is None:
        return {"embedding": list_column(outputs)}
    probabilities = outputs.softmax(dim=1)
    best = probabilities.max(dim=1)
    return {
        "predicted": pa.array([classes[k] for k in best.indices.tolist()], pa.string()),
        "probability": pa.array(best.values.numpy()),
        "probabilities": list_column(probabilities),
    }
