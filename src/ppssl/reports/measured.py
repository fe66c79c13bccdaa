"""What the page shows of a run: embeddings of all images, and the results of ``ppssl evaluate``."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from ppssl.checkpointing.files import restore
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.normalisation import normalised
from ppssl.evaluation.evaluate import evaluate_splits
from ppssl.evaluation.splits import Splits, embed_splits, query_images, source_config
from ppssl.inference.embeddings import Embeddings, embed_loader, feature_encoder
from ppssl.reports.run import Run, starting_encoder
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import resolve_seed
from ppssl.utils.results import Results

__all__ = ["REST", "Measured", "measure"]

REST = 20_000
"""Images beside gallery and queries that are embedded at most, evenly spaced."""


@dataclass(frozen=True)
class Measured:
    """A run with its data set and what was measured.

    Attributes:
        run: The run.
        data: The data set, after its ``setup``.
        images: Embeddings of all images, on the CPU: gallery, queries and, up to :data:`REST`, the others.
        splits: Gallery and queries of the evaluation; ``None`` without labels.
        results: Results of the evaluation, those of :func:`ppssl.evaluate`; ``None`` without labels.
        no_labels: Why there are no results; empty if there are.
        start: Results of the encoder before the training; ``None`` if they cannot be had.
        start_line: What the encoder before the training is, or why it cannot be had.
        model: The trained model with its plugins; ``None`` if it cannot be rebuilt here.
        no_model: Why it cannot be rebuilt; empty if it can.
    """

    run: Run
    data: FineGrainedDataModule
    images: Embeddings
    splits: Splits | None
    results: Results | None
    no_labels: str
    start: Results | None
    start_line: str
    model: Any
    no_model: str

    @property
    def total(self) -> int:
        """Number of images of the data set."""
        return sum(len(source) for source in self.data.sources.values())

    def rows(self, index: Tensor) -> np.ndarray:
        """Rows of ``images`` that hold these images, all of which must be there."""
        return np.searchsorted(self.images.index.numpy(), index.numpy())

    def class_name(self, label: int) -> str:
        """Name of a class, a dash where it is unknown."""
        return self.data.classes[label] if label >= 0 else "-"


def measure(run: Run, data: FineGrainedDataModule, *, device: str = "auto") -> Measured:
    """Embed all images of a data set, and evaluate the encoder of a run and the one that it began with.

    Args:
        run: The run.
        data: The data set.
        device: Device of the encoders; ``"auto"``: a GPU if there is one.

    Raises:
        UserError: An image cannot be read, or the encoder does not take the image size.
    """
    encoder = feature_encoder(run.checkpoint)
    data.setup()
    no_labels = _why_no_labels(data)
    splits = results = start = None
    start_line = no_labels
    if not no_labels:
        splits = embed_splits(encoder, data, device=device)
        rank_zero_info(splits.summary())
        results = _evaluate(splits, run, data)
        start, start_line = _evaluate_start(run, data, device)
    images = _all_images(encoder, data, splits, device)
    model, no_model = _rebuild(run)
    return Measured(
        run=run,
        data=data,
        images=images,
        splits=splits,
        results=results,
        no_labels=no_labels,
        start=start,
        start_line=start_line,
        model=model,
        no_model=no_model,
    )


def _rebuild(run: Run) -> tuple[Any, str]:
    """The model of a checkpoint; or ``None``, and why it cannot be rebuilt."""
    try:
        return restore(nn.Module, run.checkpoint, {}), ""
    except UserError as error:  # such as a plugin of the user, whose module is not imported
        return None, f"The model cannot be rebuilt from its checkpoint: {error}"


def _evaluate(splits: Splits, run: Run, data: FineGrainedDataModule) -> Results:
    config = source_config(run.checkpoint, data)
    return evaluate_splits(splits, seed=resolve_seed(data.seed), config=config, data=data)


def _why_no_labels(data: FineGrainedDataModule) -> str:
    """Why nothing can be evaluated; empty if it can."""
    try:
        query_images(data)
    except UserError as error:
        return str(error)
    return ""


def _evaluate_start(
    run: Run, data: FineGrainedDataModule, device: str
) -> tuple[Results | None, str]:
    """Results of the encoder before the training, and what it is or why it cannot be had."""
    try:
        line, encoder = starting_encoder(run)
    except UserError as error:
        rank_zero_warn(f"Nothing to compare with: {error}")
        return None, "The weights that the training began with cannot be read here."
    return _evaluate(embed_splits(encoder.model, data, device=device), run, data), line


def _evaluated(data: FineGrainedDataModule, splits: Splits | None) -> np.ndarray:
    """Numbers of gallery and queries, also of those that cannot be read and were skipped."""
    if splits is None:
        return np.empty(0, np.int64)
    labelled = data.train_labelled + data.offset("train")
    if splits.query_split == "train":
        return labelled
    queries = np.arange(len(data.sources[splits.query_split])) + data.offset(splits.query_split)
    return np.concatenate([labelled, queries])


def _all_images(
    encoder: Any, data: FineGrainedDataModule, splits: Splits | None, device: str
) -> Embeddings:
    """Embeddings of all images: what the evaluation embedded, and the others."""
    parts = [] if splits is None else [splits.gallery, splits.queries]
    total = sum(len(source) for source in data.sources.values())
    rest = np.setdiff1d(np.arange(total), _evaluated(data, splits))
    rest = rest[np.linspace(0, len(rest) - 1, min(len(rest), REST)).round().astype(int)]
    cfg = encoder.pretrained_cfg
    with on_device(encoder, device), normalised(data, cfg["mean"], cfg["std"]):
        for split, source in data.sources.items():
            items = rest - data.offset(split)
            items = items[(items >= 0) & (items < len(source))]
            if len(items):
                loader = data.eval_loader(split, items)
                parts.append(embed_loader(encoder, loader, data, description=f"Embedding {split}"))
    index, rows = np.unique(torch.cat([part.index for part in parts]).numpy(), return_index=True)
    features = torch.cat([part.features.cpu() for part in parts])[rows]
    labels = torch.cat([part.labels for part in parts])[rows]
    return Embeddings(features, labels, torch.from_numpy(index))
