"""Evaluation of an encoder: kNN, retrieval, linear probe and RankMe of its embeddings, by the protocol ``clean-1``.

``clean-1`` evaluates the last checkpoint on un-augmented images. Gallery: all labelled training images. Queries: the
test split; without a test split the validation split, else the held-out part of the training images. Nothing is
selected on the queries: C of the logistic regression is selected on a held-out part of the labelled training images.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.evaluation.bootstrap import image_intervals
from ppssl.evaluation.logistic_regression_probe import linear_probe_predictions
from ppssl.evaluation.nuisance_probe import nuisance_probe
from ppssl.evaluation.splits import Splits, embed_splits, read_splits, source_config
from ppssl.inference.data_set import data_or_embeddings
from ppssl.inference.embeddings import Embeddings, Feature, feature_encoder
from ppssl.metrics.knn import knn_neighbours, knn_vote
from ppssl.metrics.rankme import rankme
from ppssl.metrics.retrieval import RetrievalPerQuery, per_query_retrieval
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath
from ppssl.utils.randomness import resolve_seed
from ppssl.utils.results import Results, pack_bits

__all__ = [
    "HEADLINES",
    "PROTOCOL",
    "MetricValues",
    "compute_metrics",
    "evaluate",
    "evaluate_splits",
    "warn_undefined_retrieval",
]

PROTOCOL = "clean-1"
NEIGHBOURS = (1, 5, 10, 20)
"""The values of k of the kNN classifiers."""
HEADLINES = ("knn-1", "knn-5", "knn-20", "linear", "rank-1", "rank-5", "mAP")
"""The metrics that tables show."""


@dataclass(frozen=True)
class MetricValues:
    """Metrics of embeddings, as means and per query.

    Attributes:
        metrics: Values by name.
        hits: By name, whether each query that counts was predicted correctly, bool.
        per_image: By name, the values that the metric is the mean of, ``(Q,)``; NaN for queries that do not count.
    """

    metrics: dict[str, float]
    hits: dict[str, np.ndarray]
    per_image: dict[str, np.ndarray]


def evaluate(
    model: nn.Module | AnyPath,
    data: FineGrainedDataModule | None = None,
    *,
    feature: Feature = "gap",
    device: str = "auto",
) -> Results:
    """Evaluate an encoder on a data set.

    Args:
        model: A timm model or :class:`ppssl.PPSSL`, ``(B, 3, H, W) -> (B, D)``, or the path of a checkpoint, or of a
            file of :func:`~ppssl.inference.embed.embed`, which has its own labels.
        data: The data set; its ``label_fraction`` limits the labels in use. ``None``: the one that the checkpoint was
            trained on.
        feature: The feature, see :func:`~ppssl.inference.embeddings.feature_encoder`.
        device: Device of the encoder; ``"auto"``: a GPU if there is one.

    Returns:
        ``knn-1``, ``knn-5``, ``knn-10``, ``knn-20`` (of k larger than the gallery: none), ``linear`` (top-1),
        ``rank-1``, ``rank-5`` and ``mAP`` (NaN if no two queries have the same label) in [0, 1], with bootstrap
        intervals over the test images; ``rankme``; and if the data set records nuisances, the skill
        ``nuisance-<name>`` for each and the mean ``nuisance`` of
        those that are defined (:mod:`~ppssl.evaluation.nuisance_probe`).

    Raises:
        UserError: There are no labels, the checkpoint cannot be read, names no data set or lacks the feature, or
            ``data`` is no data module of ppssl.
    """
    data = data_or_embeddings(model, data)
    if data is None:
        seed = resolve_seed(None)
        splits = read_splits(model, feature, seed=seed)
        rank_zero_info(splits.summary())
        return evaluate_splits(splits, seed=seed, config=source_config(model))
    encoder = feature_encoder(model, feature)
    splits = embed_splits(encoder, data, device=device)
    rank_zero_info(splits.summary())
    config = source_config(model, data, feature)
    return evaluate_splits(splits, seed=resolve_seed(data.seed), config=config, data=data)


def evaluate_splits(
    splits: Splits,
    *,
    seed: int,
    config: dict[str, Any],
    data: FineGrainedDataModule | None = None,
) -> Results:
    """Evaluate embeddings by ``clean-1``.

    Args:
        splits: Embeddings of the gallery and of the queries.
        seed: Seed of the held-out part on which C is selected.
        config: Model and data, for the results.
        data: The data set; its nuisances are probed if it records any.

    Raises:
        UserError: No query has a label.
    """
    values = compute_metrics(splits.gallery, splits.queries, seed=seed)
    metrics = values.metrics | ({} if data is None else _nuisance_metrics(splits, data))
    return Results(
        metrics=metrics,
        units={name: "dimensions" if name == "rankme" else "fraction" for name in metrics},
        protocol=PROTOCOL,
        seed=seed,
        config=config,
        intervals=image_intervals(values.per_image),
        per_image={name: pack_bits(hits) for name, hits in values.hits.items()},
    )


def compute_metrics(gallery: Embeddings, queries: Embeddings, *, seed: int) -> MetricValues:
    """Compute kNN, linear probe, retrieval and RankMe of embeddings.

    Args:
        gallery: Labelled images; they are the neighbours of kNN and the training set of the linear probe.
        queries: Images to classify, and to retrieve among each other; those without a label are left out.
        seed: Seed of the held-out part on which C is selected.

    Raises:
        UserError: No query has a label.
    """
    has_label = queries.labels >= 0
    features = queries.features[has_label].to(gallery.features.device)
    labels = queries.labels[has_label]
    if not len(labels):
        raise UserError("Nothing to evaluate: no query image has a label.")
    predictions = {}
    counts = _neighbour_counts(len(gallery.labels))
    similarity, neighbours = knn_neighbours(
        gallery.features, gallery.labels, features, k=max(counts)
    )
    for k in counts:
        predictions[f"knn-{k}"] = knn_vote(similarity[:, :k], neighbours[:, :k])
    linear = linear_probe_predictions(gallery.features, gallery.labels, features, seed=seed)
    if linear is not None:
        predictions["linear"] = linear
    correct = {name: predicted.cpu() == labels for name, predicted in predictions.items()}
    retrieval = per_query_retrieval(features, labels)
    metrics = {name: float(values.float().mean()) for name, values in correct.items()}
    metrics |= retrieval.means() | {"rankme": float(rankme(features))}
    warn_undefined_retrieval(retrieval)
    hits = {name: values.numpy() for name, values in correct.items()}
    ranked = {name: values.cpu().numpy() for name, values in retrieval.values().items()}
    valid = retrieval.valid.cpu().numpy()
    return MetricValues(metrics, hits | {"rank-1": ranked["rank-1"][valid] == 1}, hits | ranked)


def warn_undefined_retrieval(retrieval: RetrievalPerQuery) -> None:
    """Warn that retrieval is not defined, if no query has another one to be found."""
    if not retrieval.valid.any():
        rank_zero_warn(
            "rank-1, rank-5 and mAP are not defined: no two queries have the same label."
        )


def _neighbour_counts(gallery: int) -> tuple[int, ...]:
    """The values of k that do not exceed the size of the gallery; the others are named in a warning."""
    left_out = [f"knn-{k}" for k in NEIGHBOURS if k > gallery]
    if left_out:
        rank_zero_warn(f"{', '.join(left_out)}: left out, the gallery has {gallery} images.")
    return tuple(k for k in NEIGHBOURS if k <= gallery)


def _nuisance_metrics(splits: Splits, data: FineGrainedDataModule) -> dict[str, float]:
    """Skill of the nuisance probes; empty if the data set records no nuisances."""
    names = data.sources["train"].nuisance_names
    if not names:
        return {}
    train_rows = splits.gallery.index.numpy() - data.offset("train")
    test_rows = splits.queries.index.numpy() - data.offset(splits.query_split)
    skill = nuisance_probe(
        splits.gallery.features,
        data.sources["train"].nuisances()[train_rows],
        splits.queries.features,
        data.sources[splits.query_split].nuisances()[test_rows],
        names=names,
    )
    metrics = {f"nuisance-{name}": value for name, value in skill.items()}
    defined = [value for value in skill.values() if not math.isnan(value)]
    return metrics | {"nuisance": float(np.mean(defined)) if defined else math.nan}
