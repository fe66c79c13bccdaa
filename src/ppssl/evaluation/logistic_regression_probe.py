"""Linear probe of frozen embeddings: logistic regression for the classes, of the protocol ``clean-1``.

Nothing is selected on the test images:

1. For each C, fit logistic regression with an L2 penalty to the training images that are not held out
   (:mod:`~ppssl.evaluation.logistic_regression`, which standardises each feature).
2. Select the C with the highest accuracy on the held-out part (the smallest C on ties), refit on *all* training images,
   and predict the test images.

The problem is convex and is solved to convergence, so it has no seed, schedule or number of epochs. Each fit starts
from the ones before it. It runs on the device of the features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.data.label_splits import select_held_out
from ppssl.evaluation.logistic_regression import LinearClassifier, LogisticRegression
from ppssl.metrics.retrieval import check_embeddings
from ppssl.utils.errors import ArgumentError

__all__ = [
    "C_GRID",
    "LogisticRegressionResult",
    "linear_probe_predictions",
    "logistic_regression_probe",
]

VAL_FRACTION = 0.2
"""Part of each class of the training images on which C is selected."""
C_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The values of C that are tried."""


@dataclass(frozen=True)
class LogisticRegressionResult:
    """Result of :func:`logistic_regression_probe`.

    Attributes:
        c: The selected inverse penalty.
        val_accuracy: Top-1 accuracy in [0, 1] on the held-out part, before the refit on all images.
        val_accuracies: Top-1 accuracy on the held-out part for each C, in ascending order of C.
        predictions: ``(T,)`` int64, the predicted labels of the test images, on the device of the features.
    """

    c: float
    val_accuracy: float
    val_accuracies: dict[float, float]
    predictions: Tensor


def linear_probe_predictions(
    train: Tensor, train_labels: Tensor, test: Tensor, *, seed: int
) -> Tensor | None:
    """Predict ``test`` by logistic regression, with C selected on a held-out fifth of each class of ``train``.

    Args:
        train: ``(N, D)`` floating point, un-normalised.
        train_labels: ``(N,)`` int64, all known; on any device.
        test: ``(T, D)`` floating point, on the device of ``train``.
        seed: Seed of the held-out part.

    Returns:
        The predicted labels, ``(T,)`` int64, on the device of ``train``. ``None``, and a line with the reason, where
        there is no such probe.
    """
    labels = train_labels.cpu().numpy()
    all_rows = np.arange(len(labels))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[select_held_out(labels, all_rows, VAL_FRACTION, seed)] = True
    one_class = len(np.unique(labels)) < 2
    if one_class or not held_out.any():
        lack = "two classes" if one_class else "two images of any class, on which C is selected"
        rank_zero_warn(f"linear: left out, the gallery does not have {lack}.")
        return None
    return logistic_regression_probe(train, train_labels, test, held_out=held_out).predictions


@torch.inference_mode(False)
@torch.no_grad()
def logistic_regression_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    held_out: Tensor,
    c_grid: Sequence[float] = C_GRID,
) -> LogisticRegressionResult:
    """Fit logistic regression to ``train``, with C selected on the held-out part, and predict ``test``.

    Args:
        train: ``(N, D)`` floating point, un-normalised.
        train_labels: ``(N,)`` integer; images with a negative (unknown) label are left out. On any device.
        test: ``(T, D)`` floating point, on the device of ``train``.
        held_out: ``(N,)`` bool, on any device: the images on which C is selected; see
            :func:`ppssl.data.label_splits.select_held_out`.
        c_grid: The inverse penalties to try, > 0.

    Returns:
        The selection, and the predictions after a refit on all labelled images of ``train``.
    """
    grid = _check_arguments(train, train_labels, test, held_out, c_grid)
    labels, val = train_labels.to(train.device), held_out.to(train.device)
    has_label = labels >= 0
    x, y, val = train[has_label], labels[has_label].long(), val[has_label]
    _check_parts(x, y, test, val)
    part = LogisticRegression(x[~val], y[~val])
    classifiers: list[LinearClassifier] = []
    accuracies = {}
    for c in grid:
        classifiers.append(part.fit(c, _extrapolate(classifiers)))
        accuracies[c] = float((classifiers[-1].predict(x[val]) == y[val]).double().mean())
    best = max(accuracies, key=lambda c: (accuracies[c], -c))
    final = LogisticRegression(x, y).fit(best, classifiers[grid.index(best)])
    return LogisticRegressionResult(best, accuracies[best], accuracies, final.predict(test))


def _extrapolate(classifiers: Sequence[LinearClassifier]) -> LinearClassifier | None:
    """Where the classifier of the next C probably is, the weights being about linear in log C; a third fewer steps."""
    if len(classifiers) < 2:
        return classifiers[-1] if classifiers else None
    before, last = classifiers[-2:]
    weight, bias = 2 * last.weight - before.weight, 2 * last.bias - before.bias
    return replace(last, weight=weight, bias=bias)


def _check_arguments(
    train: Tensor, labels: Tensor, test: Tensor, held_out: Tensor, c_grid: Sequence[float]
) -> list[float]:
    """Check shapes and dtypes, and return the grid in ascending order without duplicates."""
    check_embeddings(train, train_labels=labels)
    check_embeddings(test)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"`train` and `test` must have the same number of dimensions, got {train.shape[1]} and {test.shape[1]}."
        )
    if held_out.shape != labels.shape or held_out.dtype != torch.bool:
        raise ValueError(
            f"`held_out` must be ({len(labels)},) bool, one value per row of `train`, "
            f"got {tuple(held_out.shape)} {held_out.dtype}."
        )
    if not c_grid or not all(c > 0 for c in c_grid):
        raise ArgumentError(f"`c_grid` must be one or more numbers > 0, got {tuple(c_grid)}.")
    return sorted({float(c) for c in c_grid})


def _check_parts(x: Tensor, labels: Tensor, test: Tensor, val: Tensor) -> None:
    """Raise if values are not finite, no labelled image is held out, or fewer than two classes remain to be fitted."""
    if not (x.isfinite().all() and test.isfinite().all()):
        raise ValueError("`train` and `test` must be finite, got NaN or infinity.")
    if not val.any():
        raise ValueError(
            "`held_out` must contain a labelled image, got none: C cannot be selected. Label more images."
        )
    classes = len(labels[~val].unique())
    if classes < 2:
        raise ValueError(
            "`train` must have labelled images of two classes or more besides the held-out images, "
            f"got {classes}."
        )
