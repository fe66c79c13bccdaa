"""Protocol ``lcr-2023``: retrieval and linear classification as LCR (CVPR 2023) reports them (:ref:`F9 <f9>`).

Retrieval as in :mod:`ppssl.metrics.retrieval`; a linear classifier on frozen, un-normalised features, trained by SGD
with learning rate 30, momentum 0.9 and batches of 256 for 100 epochs, the rate times 0.1 after epochs 60 and 80.

LCR's published numbers are the best over checkpoints and epochs **on the test images**, which is biased upwards. This
module reports two numbers: those at the end of training, and with the prefix ``best-on-test-`` those selected on the
test images, for comparison with published tables only. This project's results use ``clean-1``.

DEVIATION: LCR's classifier is trained on random crops; here it is trained on one embedding per image, so that every
feature can be evaluated. :class:`~ppssl.classify.linear_probe.LinearProbe` trains on augmented views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from torch import Tensor, nn
from torch.optim import SGD

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.evaluation.bootstrap import image_intervals
from ppssl.evaluation.evaluate import warn_undefined_retrieval
from ppssl.evaluation.splits import Splits, embed_splits
from ppssl.inference.data_set import is_embedding_file
from ppssl.inference.embeddings import Feature, feature_encoder
from ppssl.metrics.retrieval import RetrievalPerQuery, per_query_retrieval
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import AnyPath, expand
from ppssl.utils.randomness import generator, initial_weights, resolve_seed
from ppssl.utils.results import Results, pack_bits

__all__ = ["PROTOCOL", "checkpoints_of", "evaluate_lcr", "sgd_probe"]

PROTOCOL = "lcr-2023"
EPOCHS = 100
MILESTONES = (0.6, 0.8)
"""Fractions of the epochs after which the learning rate is multiplied by 0.1."""
BATCH = 256
CRITERION = "rank-1"
"""The metric that the best checkpoint is selected by."""


@dataclass(frozen=True)
class _EvaluatedCheckpoint:
    """Embeddings and retrieval results of a checkpoint."""

    path: AnyPath
    splits: Splits
    retrieval: RetrievalPerQuery

    def has_label(self) -> Tensor:
        """Which queries have a label, ``(Q,)`` bool."""
        return self.splits.queries.labels >= 0

    def retrieval_per_image(self) -> dict[str, np.ndarray]:
        """Retrieval values of each query with a label; NaN for the only image of a class."""
        keep = self.has_label()
        return {name: v.cpu()[keep].numpy() for name, v in self.retrieval.values().items()}


def checkpoints_of(path: AnyPath) -> list[Path]:
    """List the checkpoints of a folder in the order of their steps; a file is returned as it is.

    If several files are from the same step, only the newest of them is listed.

    Raises:
        UserError: The folder has no checkpoint, or a checkpoint cannot be read.
    """
    path = expand(path)
    if is_embedding_file(path):
        raise UserError(f"`{PROTOCOL}` is of checkpoints: {path} is a file of embeddings.")
    if not path.is_dir():
        read_checkpoint(path)
        return [path]
    files = sorted(path.glob("*.ckpt"), key=lambda p: (p.stat().st_mtime, p.name))
    if not files:
        raise UserError(
            f"No checkpoint (*.ckpt) in the folder {path}: give the folder that `ppssl fit` wrote its checkpoints to."
        )
    by_step = {int(read_checkpoint(file)["global_step"]): file for file in files}
    return [by_step[step] for step in sorted(by_step)]


def evaluate_lcr(
    checkpoints: Sequence[AnyPath],
    data: FineGrainedDataModule,
    *,
    feature: Feature = "gap",
    device: str = "auto",
    epochs: int = EPOCHS,
) -> Results:
    """Evaluate the checkpoints of a run by ``lcr-2023``.

    Args:
        checkpoints: The checkpoints in the order of training (:func:`checkpoints_of`).
        data: The data set.
        feature: The feature; LCR's published numbers are of ``"branch"``.
        device: Device of the encoders; ``"auto"``: a GPU if there is one.
        epochs: Epochs of the linear classifier.

    Returns:
        ``rank-1``, ``rank-5``, ``mAP`` and ``linear`` (top-1) of the last checkpoint and the classifier's last epoch;
        and with the prefix ``best-on-test-`` those of the checkpoint with the highest rank-1 on the test images and of
        the classifier's best epoch on them. ``config["best_on_test"]`` names that checkpoint and that epoch.

    Raises:
        UserError: There are no labels, or a checkpoint cannot be read or lacks the feature.
    """
    if not checkpoints:
        raise ArgumentError("`checkpoints` must contain at least one checkpoint.")
    best = last = _evaluate_checkpoint(checkpoints[0], data, feature, device)
    for path in checkpoints[1:]:
        last = _evaluate_checkpoint(path, data, feature, device)
        best = max(best, last, key=lambda checkpoint: checkpoint.retrieval.means()[CRITERION])
    rank_zero_info(last.splits.summary())
    warn_undefined_retrieval(last.retrieval)
    seed = resolve_seed(data.seed)
    hits = _linear_hits(last, epochs=epochs, seed=seed)
    best_hits = hits if best is last else _linear_hits(best, epochs=epochs, seed=seed)
    best_epoch = int(best_hits.mean(axis=1).argmax())
    metrics = last.retrieval.means() | {"linear": float(hits[-1].mean())}
    best_metrics = best.retrieval.means() | {"linear": float(best_hits[best_epoch].mean())}
    metrics |= {f"best-on-test-{name}": value for name, value in best_metrics.items()}
    per_image = last.retrieval_per_image() | {"linear": hits[-1]}
    return Results(
        metrics=metrics,
        units=dict.fromkeys(metrics, "fraction"),
        protocol=PROTOCOL,
        seed=seed,
        config={
            "model": [str(path) for path in checkpoints],
            "data": data.config(),
            "feature": feature,
            "best_on_test": {"checkpoint": str(best.path), "epoch_of_linear": best_epoch + 1},
        },
        intervals=image_intervals(per_image),
        per_image={"linear": pack_bits(hits[-1])},
    )


def sgd_probe(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    head: nn.Linear,
    lr: float = 30.0,
    momentum: float = 0.9,
    batch_size: int = BATCH,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Tensor:
    """Train a linear classifier by SGD on fixed embeddings.

    Args:
        train: ``(N, D)`` float32.
        labels: ``(N,)`` int64, all known, on any device.
        test: ``(T, D)`` float32, on the device of ``train``.
        head: The classifier, from D features to K classes, on the device of ``train``; trained in place.
        lr: The learning rate, for batches of 256; divided by 10 after each of :data:`MILESTONES`.
        momentum: Momentum of SGD.
        batch_size: Images per step; the last batch of an epoch may be smaller.
        epochs: Number of epochs.
        seed: Seed of the sample order, which is that of the data modules.

    Returns:
        ``(epochs, T)`` int64, on the CPU: the predicted label of each test image after each epoch.
    """
    labels = labels.to(train.device)
    optimizer = SGD(head.parameters(), lr=lr, momentum=momentum)
    predictions = torch.empty(epochs, len(test), dtype=torch.int64)
    for epoch in track(range(epochs), "Linear classifier", transient=True):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.1 ** sum(epoch >= round(part * epochs) for part in MILESTONES)
        order = torch.from_numpy(generator(seed, "order", epoch).permutation(len(train)))
        for rows in order.to(train.device).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(train[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            predictions[epoch] = head(test).argmax(dim=1)
    return predictions


def _evaluate_checkpoint(
    path: AnyPath, data: FineGrainedDataModule, feature: Feature, device: str
) -> _EvaluatedCheckpoint:
    splits = embed_splits(feature_encoder(path, feature), data, device=device)
    retrieval = per_query_retrieval(splits.queries.features, splits.queries.labels)
    return _EvaluatedCheckpoint(path, splits, retrieval)


def _linear_hits(checkpoint: _EvaluatedCheckpoint, *, epochs: int, seed: int) -> np.ndarray:
    """Whether each query with a label was predicted correctly after each epoch, ``(epochs, Q)`` bool."""
    gallery, queries = checkpoint.splits.gallery, checkpoint.splits.queries
    has_label = checkpoint.has_label()
    with initial_weights(seed, "head"):
        head = nn.Linear(gallery.features.shape[1], int(checkpoint.splits.labels.max()) + 1)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    test = queries.features[has_label].to(gallery.features.device)
    predictions = sgd_probe(
        gallery.features,
        gallery.labels,
        test,
        head=head.to(test.device),
        epochs=epochs,
        seed=seed,
    )
    return (predictions == queries.labels[has_label]).numpy()
