"""How good an encoder's embeddings are: kNN, retrieval and a linear probe, by one versioned protocol.

``clean-1``: the last checkpoint, un-augmented images, embeddings p. Gallery: every labelled training image; queries:
the test split (where there is none the validation split, else the held-out part of the training images). Nothing is
chosen on the queries: C of the logistic regression is chosen on a held-out part of the labelled training images.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.labels import held_out
from ppssl.evaluation.bootstrap import image_intervals
from ppssl.evaluation.logistic_regression import logistic_regression_probe
from ppssl.evaluation.nuisance import nuisance_probe
from ppssl.evaluation.splits import Splits, embed_splits, read_splits
from ppssl.inference.embed import read_description
from ppssl.inference.embeddings import Embeddings
from ppssl.inference.features import Feature, feature_encoder
from ppssl.metrics.knn import knn_neighbours, knn_vote
from ppssl.metrics.rankme import rankme
from ppssl.metrics.retrieval import RANKS, per_query_retrieval
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import resolve_seed
from ppssl.utils.results import Results, pack_bits

__all__ = ["HEADLINES", "PROTOCOL", "Measured", "described", "evaluate", "measure", "results_of"]

PROTOCOL = "clean-1"
NEIGHBOURS = (1, 5, 10, 20)
HEADLINES = ("knn-1", "knn-5", "knn-20", "linear", "rank-1", "rank-5", "mAP")
"""The metrics that tables show."""
VAL_FRACTION = 0.2
"""Part of each class of the labelled training images on which C is chosen."""


@dataclass(frozen=True)
class Measured:
    """What was measured of some embeddings.

    Attributes:
        metrics: By name.
        hits: Whether each query was right, ``(Q,)`` bool; of a query that does not count False.
        per_image: What the metrics are means of, ``(Q,)``; NaN for queries that do not count.
    """

    metrics: dict[str, float]
    hits: dict[str, np.ndarray]
    per_image: dict[str, np.ndarray]


def evaluate(
    model: nn.Module | str | Path,
    data: FineGrainedDataModule | None = None,
    *,
    feature: Feature = "gap",
    device: str = "auto",
) -> Results:
    """Measure an encoder on a data set.

    Args:
        model: A timm model or :class:`ppssl.PPSSL`, ``(B, 3, H, W) -> (B, D)``, or the path of a checkpoint, or without
            ``data`` that of a file of :func:`~ppssl.inference.embed.embed`.
        data: The data set; its ``label_fraction`` is the part of the labels used.
        feature: Which embedding, see :func:`~ppssl.inference.features.feature_encoder`.
        device: Where the encoder runs; ``"auto"``: a GPU if there is one.

    Returns:
        ``knn-1``, ``knn-5``, ``knn-10``, ``knn-20``, ``linear`` (top-1), ``rank-1``, ``rank-5`` and ``mAP`` in [0, 1],
        with bootstrap intervals over the test images; ``rankme``; where the data set knows nuisances,
        ``nuisance-<name>`` of each and their mean ``nuisance`` (:func:`~ppssl.evaluation.nuisance.nuisance_probe`).

    Raises:
        UserError: No labels, the checkpoint cannot be read, or it has no such feature.
    """
    if data is None:
        seed = resolve_seed(None)
        return results_of(
            read_splits(model, feature, seed=seed), seed=seed, config=described(model)
        )
    splits = embed_splits(feature_encoder(model, feature), data, device=device)
    config = described(model, data, feature)
    return results_of(splits, seed=resolve_seed(data.seed), config=config, data=data)


def results_of(
    splits: Splits,
    *,
    seed: int,
    config: dict[str, Any],
    data: FineGrainedDataModule | None = None,
) -> Results:
    """What the protocol finds of embeddings; nuisances only where the data set is given."""
    measured = measure(splits.gallery, splits.queries, seed=seed)
    metrics = measured.metrics | ({} if data is None else _nuisances(splits, data))
    return Results(
        metrics=metrics,
        units={name: "dimensions" if name == "rankme" else "fraction" for name in metrics},
        protocol=PROTOCOL,
        seed=seed,
        config=config,
        intervals=image_intervals(measured.per_image),
        per_image={name: pack_bits(values) for name, values in measured.hits.items()},
    )


def measure(gallery: Embeddings, queries: Embeddings, *, seed: int) -> Measured:
    """All metrics of the protocol; raises :class:`UserError` where no query has a label."""
    known = queries.labels >= 0
    features, labels = queries.features[known], queries.labels[known]
    if not len(labels):
        raise UserError("Nothing to evaluate: no query has a label.")
    hits = {}
    k_max = min(max(NEIGHBOURS), len(gallery.labels))
    similarity, neighbours = knn_neighbours(gallery.features, gallery.labels, features, k=k_max)
    for k in NEIGHBOURS:
        hits[f"knn-{k}"] = knn_vote(similarity[:, :k], neighbours[:, :k]) == labels
    hits["linear"] = _linear(gallery, features, seed=seed) == labels
    retrieval = per_query_retrieval(features, labels)
    metrics = {name: float(value.float().mean()) for name, value in hits.items()}
    metrics |= retrieval.means() | {"rankme": float(rankme(features))}
    found = {name: value.numpy() for name, value in hits.items()}
    ranks = {f"rank-{k}": retrieval.hits(k).numpy() for k in RANKS}
    valid = retrieval.valid.numpy()
    per_image = found | {name: np.where(valid, row, np.nan) for name, row in ranks.items()}
    per_image |= {"mAP": retrieval.average_precision.numpy()}
    return Measured(metrics, found | {"rank-1": ranks["rank-1"]}, per_image)


def _linear(gallery: Embeddings, features: Tensor, *, seed: int) -> Tensor:
    labels = gallery.labels.numpy()
    val = torch.zeros(len(labels), dtype=torch.bool)
    val[held_out(labels, np.arange(len(labels)), VAL_FRACTION, seed)] = True
    return logistic_regression_probe(
        gallery.features, gallery.labels, features, held_out=val
    ).predictions


def _nuisances(splits: Splits, data: FineGrainedDataModule) -> dict[str, float]:
    """How well scene, light and pose can still be read off; nothing where they are not known."""
    names = data.sources["train"].nuisance_names
    if not names:
        return {}
    train, test = (
        data.sources[part].nuisances()[rows.index.numpy() - data.offset(part)]
        for part, rows in (("train", splits.gallery), (splits.query_split, splits.queries))
    )
    skill = nuisance_probe(
        splits.gallery.features, train, splits.queries.features, test, names=names
    )
    found = {f"nuisance-{name}": value for name, value in skill.items()}
    return found | {"nuisance": float(np.mean(list(skill.values())))}


def described(
    model: Any, data: FineGrainedDataModule | None = None, feature: Feature = "gap"
) -> dict[str, Any]:
    """What is measured, as plain data; without a data set ``model`` is a file of embeddings."""
    if data is None:
        return {"embeddings": str(model), "description": asdict(read_description(model))}
    told: Any = str(model) if isinstance(model, str | Path) else type(model).__name__
    if isinstance(model, Configurable):
        told = model.config()
    chosen = {} if feature == "gap" else {"feature": feature}
    return {"model": told, "data": data.config(), **chosen}
