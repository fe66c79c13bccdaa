"""Protocol ``lcr-2023``: the numbers that LCR (CVPR 2023) and papers after it report (METHOD F9).

Retrieval as in ``retrieval.py``; a linear classifier of frozen, un-normalised features: SGD at 30, momentum 0.9,
batches of 256, 100 epochs, times 0.1 at 60 and 80. Their numbers are the best ones over checkpoints and epochs **on
the test images**, which flatters every method; so both are given, what was there at the end, and under
``best-on-test-...`` what the test images chose. The numbers of this project are those of ``clean-1``.

DEVIATION: LCR's classifier is trained on random crops; here, so that any feature can be measured, on one embedding of
each image. :class:`~ppssl.classify.linear_probe.LinearProbe` trains on views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.optim import SGD

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.evaluation.bootstrap import image_intervals
from ppssl.evaluation.splits import Splits, embed_splits
from ppssl.inference.features import Feature, feature_encoder
from ppssl.metrics.retrieval import RANKS, RetrievalPerQuery, per_query_retrieval
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import initial_weights, generator, resolve_seed
from ppssl.utils.results import Results, pack_bits

__all__ = ["PROTOCOL", "checkpoints_of", "evaluate_lcr", "sgd_probe"]

PROTOCOL = "lcr-2023"
EPOCHS = 100
MILESTONES = (0.6, 0.8)
"""Parts of the epochs after each of which the rate is a tenth of what it was."""
BATCH = 256
CRITERION = "rank-1"
"""What the best checkpoint is best in."""


@dataclass(frozen=True)
class _Measured:
    """A checkpoint's embeddings and how well they retrieve."""

    path: str | Path
    splits: Splits
    retrieval: RetrievalPerQuery


def checkpoints_of(path: str | Path) -> list[Path]:
    """The checkpoints in a folder by step, the newest file of each step; or the one that ``path`` is.

    Raises:
        UserError: There are none, or one cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        read_checkpoint(path)
        return [path]
    found = sorted(path.glob("*.ckpt"), key=lambda p: (p.stat().st_mtime, p.name))
    if not found:
        raise UserError(f"No checkpoint (*.ckpt) in the folder {path}.")
    by_step = {int(read_checkpoint(p)["global_step"]): p for p in found}
    return [by_step[step] for step in sorted(by_step)]


def evaluate_lcr(
    checkpoints: Sequence[str | Path],
    data: FineGrainedDataModule,
    *,
    feature: Feature = "gap",
    device: str = "auto",
    epochs: int = EPOCHS,
) -> Results:
    """Measure the checkpoints of a run by ``lcr-2023``.

    Args:
        checkpoints: In the order of training (:func:`checkpoints_of`).
        data: The data set.
        feature: Which embedding; LCR's own numbers are of ``"branch"``.
        device: Where the encoders run; ``"auto"``: a GPU if there is one.
        epochs: Of the linear classifier.

    Returns:
        ``rank-1``, ``rank-5``, ``mAP`` and ``linear`` (top-1) of the last checkpoint, the classifier's after its last
        epoch; and the same with ``best-on-test-`` before them, of the checkpoint with the highest rank-1 on the test
        images, the classifier's after the epoch that was best on them. Which these were is in
        ``config["best_on_test"]``.

    Raises:
        UserError: No labels, or a checkpoint cannot be read, or has no such feature.
    """
    if not checkpoints:
        raise ValueError("`checkpoints` must name one at least.")
    best = last = _measure(checkpoints[0], data, feature, device)
    for path in checkpoints[1:]:
        last = _measure(path, data, feature, device)
        best = max(best, last, key=lambda found: found.retrieval.means()[CRITERION])
    seed = resolve_seed(data.seed)
    hits = _probe(last.splits, epochs=epochs, seed=seed)
    best_hits = hits if best is last else _probe(best.splits, epochs=epochs, seed=seed)
    epoch = int(best_hits.mean(axis=1).argmax())
    metrics = last.retrieval.means() | {"linear": float(hits[-1].mean())}
    chosen = best.retrieval.means() | {"linear": float(best_hits[epoch].mean())}
    metrics |= {f"best-on-test-{name}": value for name, value in chosen.items()}
    per_image = _per_image(last) | {"linear": hits[-1]}
    told = {"checkpoint": str(best.path), "epoch_of_linear": epoch + 1}
    return Results(
        metrics=metrics,
        units=dict.fromkeys(metrics, "fraction"),
        protocol=PROTOCOL,
        seed=seed,
        config={
            "model": [str(path) for path in checkpoints],
            "data": data.config(),
            "feature": feature,
            "best_on_test": told,
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
        labels: ``(N,)`` int64, all known.
        test: ``(T, D)`` float32.
        head: D to K; trained in place.
        lr: The learning rate, for batches of 256; divided by 10 after each of :data:`MILESTONES`.
        momentum: SGD's.
        batch_size: At most so many images a step; an epoch's last batch may be smaller.
        epochs: How often each image is seen.
        seed: For the order, which is that of the data modules.

    Returns:
        ``(epochs, T)`` int64: what each test image is taken for after each epoch.
    """
    optimizer = SGD(head.parameters(), lr=lr, momentum=momentum)
    predictions = torch.empty(epochs, len(test), dtype=torch.int64)
    for epoch in track(range(epochs), "Linear classifier", transient=True):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.1 ** sum(epoch >= round(part * epochs) for part in MILESTONES)
        order = torch.from_numpy(generator(seed, "order", epoch).permutation(len(train)))
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(train[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            predictions[epoch] = head(test).argmax(dim=1)
    return predictions


def _measure(
    path: str | Path, data: FineGrainedDataModule, feature: Feature, device: str
) -> _Measured:
    splits = embed_splits(feature_encoder(path, feature), data, device=device)
    queries = splits.queries
    return _Measured(path, splits, per_query_retrieval(queries.features, queries.labels))


def _per_image(found: _Measured) -> dict[str, np.ndarray]:
    """What the means of retrieval are of, for each query with a label; NaN where it is alone in its class."""
    known = (found.splits.queries.labels >= 0).numpy()
    valid = found.retrieval.valid.numpy()[known]
    hits = {f"rank-{k}": found.retrieval.hits(k).numpy()[known] for k in RANKS}
    precision = found.retrieval.average_precision.numpy()[known]
    return {name: np.where(valid, row, np.nan) for name, row in hits.items()} | {"mAP": precision}


def _probe(splits: Splits, *, epochs: int, seed: int) -> np.ndarray:
    """Whether each query with a label was right after each epoch: ``(epochs, Q)`` bool."""
    gallery, queries = splits.gallery, splits.queries
    known = queries.labels >= 0
    with initial_weights(seed, "head"):
        head = nn.Linear(gallery.features.shape[1], int(splits.labels.max()) + 1)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    features = queries.features[known]
    found = sgd_probe(
        gallery.features, gallery.labels, features, head=head, epochs=epochs, seed=seed
    )
    return (found == queries.labels[known]).numpy()
