"""Benchmark of the evaluation: seconds of linear probe, kNN and retrieval (``ppssl bench evaluate``)."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ppssl.data.label_splits import select_held_out
from ppssl.evaluation.evaluate import NEIGHBOURS
from ppssl.evaluation.logistic_regression_probe import (
    C_GRID,
    VAL_FRACTION,
    linear_probe_predictions,
)
from ppssl.metrics.knn import knn_neighbours, knn_vote
from ppssl.metrics.retrieval import retrieval_metrics
from ppssl.studies.timing import median_ratios, spread, synchronize, time_rounds
from ppssl.utils.checks import check_range
from ppssl.utils.device import resolve_device
from ppssl.utils.errors import ArgumentError
from ppssl.utils.results import provenance

__all__ = ["EmbeddingSizes", "RandomEmbeddings", "bench_evaluate", "scikit_learn_probe"]

LATENT = 128
"""Dimensions of the random variable that embeddings are made from."""
SPREAD = 0.37
"""Distance of the classes' centres, relative to the spread within a class."""


@dataclass(frozen=True)
class EmbeddingSizes:
    """Sizes of a random data set; the defaults are those of CUB with ResNet-50.

    Attributes:
        train: Number of training images.
        test: Number of test images.
        classes: Number of classes.
        dim: Length of an embedding.
    """

    train: int = 5994
    test: int = 5794
    classes: int = 200
    dim: int = 2048


@dataclass(frozen=True)
class RandomEmbeddings:
    """Embeddings of training and test images that cluster by class.

    Attributes:
        train: ``(N, D)`` float32, >= 0.
        train_labels: ``(N,)`` int64.
        test: ``(T, D)`` float32.
        test_labels: ``(T,)`` int64.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @classmethod
    def draw(cls, sizes: EmbeddingSizes, seed: int = 0) -> "RandomEmbeddings":
        """Draw correlated and non-negative embeddings, as an encoder's: clusters through a random layer and ReLU."""
        draw = torch.Generator().manual_seed(seed)
        centres = SPREAD * torch.randn(sizes.classes, LATENT, generator=draw)
        layer = torch.randn(LATENT, sizes.dim, generator=draw) / LATENT**0.5

        def embed(labels: Tensor) -> Tensor:
            latent = centres[labels] + torch.randn(len(labels), LATENT, generator=draw)
            noise = 0.1 * torch.randn(len(labels), sizes.dim, generator=draw)
            return (latent @ layer + noise).relu()

        train_labels, test_labels = (
            torch.arange(n) % sizes.classes for n in (sizes.train, sizes.test)
        )
        return cls(embed(train_labels), train_labels, embed(test_labels), test_labels)

    def to(self, device: torch.device) -> "RandomEmbeddings":
        """The same on a device."""
        parts = (self.train, self.train_labels, self.test, self.test_labels)
        return RandomEmbeddings(*(part.to(device) for part in parts))


def bench_evaluate(
    sizes: EmbeddingSizes | None = None,
    *,
    repeats: int = 1,
    device: str = "auto",
    scikit_learn: bool = True,
) -> dict[str, Any]:
    """Measure seconds of linear probe, kNN and retrieval of random embeddings, in turns.

    Args:
        sizes: Numbers of images, classes and dimensions; ``None``: those of CUB with ResNet-50.
        repeats: Number of rounds; there is no warm-up round.
        device: Device of the embeddings: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        scikit_learn: Whether to time the probe by scikit-learn's logistic regression on the CPU too, for comparison.

    Returns:
        ``seconds`` (median, min and max) of ``linear``, ``kNN``, ``retrieval`` and ``scikit-learn``; ``top1`` in [0, 1]
        of the classifiers, and mAP of ``retrieval``, under ``scores``; ``ratios`` of seconds by
        ``<task>/scikit-learn``; the arguments, and the provenance.

    Raises:
        UserError: The device cannot be used.
    """
    sizes = sizes or EmbeddingSizes()
    _check_sizes(sizes)
    check_range(">= 1", repeats=repeats)
    chosen = resolve_device(device)
    embeddings = RandomEmbeddings.draw(sizes)
    tasks = _tasks(embeddings, chosen)
    if scikit_learn:
        tasks["scikit-learn"] = partial(_scikit_learn, embeddings)
    scores: dict[str, float] = {}
    timed = {name: partial(_seconds, name, task, scores, chosen) for name, task in tasks.items()}
    times = time_rounds(timed, repeats, warm_up=0)
    arguments = asdict(sizes) | {"repeats": repeats, "device": chosen.type}
    return {
        "schema_version": 1,
        "arguments": arguments | {"threads": torch.get_num_threads()},
        "units": {"seconds": "s", "scores": "fraction", "ratios": "1"},
        "seconds": spread(times),
        "scores": scores,
        "ratios": median_ratios(times, "scikit-learn") if scikit_learn else {},
        "provenance": provenance(),
    }


def _check_sizes(sizes: EmbeddingSizes) -> None:
    check_range(">= 2", classes=sizes.classes)
    check_range(">= 1", test=sizes.test, dim=sizes.dim)
    if sizes.train < 2 * sizes.classes:
        raise ArgumentError(
            f"`train` must be two images per class or more, >= {2 * sizes.classes}, got {sizes.train}."
        )


def _tasks(embeddings: RandomEmbeddings, device: torch.device) -> dict[str, Callable[[], float]]:
    """The parts of an evaluation, each a function that returns its score."""
    e = embeddings.to(device)

    def linear() -> float:
        predicted = linear_probe_predictions(e.train, embeddings.train_labels, e.test, seed=0)
        if predicted is None:  # not with the sizes that `_check_sizes` allows
            return math.nan
        return _accuracy(predicted, embeddings.test_labels)

    def knn() -> float:
        k_max = min(max(NEIGHBOURS), len(e.train))
        nearest = knn_neighbours(e.train, e.train_labels, e.test, k=k_max)
        votes = [knn_vote(*(part[:, :k] for part in nearest)) for k in NEIGHBOURS]
        return _accuracy(votes[0], embeddings.test_labels)

    def retrieval() -> float:
        return retrieval_metrics(e.test, e.test_labels)["mAP"]

    return {"linear": linear, "kNN": knn, "retrieval": retrieval}


def _scikit_learn(e: RandomEmbeddings) -> float:
    return _accuracy(scikit_learn_probe(e.train, e.train_labels, e.test), e.test_labels)


def scikit_learn_probe(train: Tensor, train_labels: Tensor, test: Tensor) -> Tensor:
    """Predict ``test`` by scikit-learn's logistic regression in float64; the problem is that of the linear probe.

    C is selected on the same held-out fifth as by
    :func:`~ppssl.evaluation.logistic_regression_probe.linear_probe_predictions`, and each fit starts from the previous
    one.

    Args:
        train: ``(N, D)`` floating point.
        train_labels: ``(N,)`` int64, all known.
        test: ``(T, D)`` floating point.

    Returns:
        The predicted labels, ``(T,)`` int64.
    """
    x, y = train.double().numpy(), train_labels.numpy()
    held_out = np.zeros(len(y), dtype=bool)
    held_out[select_held_out(y, np.arange(len(y)), VAL_FRACTION, 0)] = True
    accuracies = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = _logistic_regression(warm_start=True)
        for c in sorted(C_GRID):
            model.set_params(logisticregression__C=c).fit(x[~held_out], y[~held_out])
            accuracies[c] = float(model.score(x[held_out], y[held_out]))
        best = max(accuracies, key=lambda c: (accuracies[c], -c))
        refit = _logistic_regression().set_params(logisticregression__C=best).fit(x, y)
    return torch.from_numpy(refit.predict(test.double().numpy()))


def _logistic_regression(*, warm_start: bool = False) -> Pipeline:
    solver = LogisticRegression(tol=1e-6, max_iter=1000, warm_start=warm_start)
    return make_pipeline(StandardScaler(), solver)


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted.cpu() == labels).double().mean())


def _seconds(
    name: str, task: Callable[[], float], scores: dict[str, float], device: torch.device
) -> float:
    """Seconds of a task, whose score is written to ``scores``."""
    synchronize(device)
    started = time.perf_counter()
    scores[name] = task()
    synchronize(device)
    return time.perf_counter() - started
