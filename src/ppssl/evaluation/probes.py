"""Linear probes of frozen embeddings: logistic regression for the classes, ridge regression for nuisances.

**Classes** (protocol ``clean-1``). Nothing is selected on the test images:

1. Standardise each feature by the mean and standard deviation of the fitted images.
2. For each C, fit multinomial logistic regression with an L2 penalty to the training images that are not held out::

       minimise over W, b:   C * sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / 2      (b is not penalised)

   (for two classes scikit-learn penalises ``W_1 - W_0`` instead of W: the same models, at C / 2).

3. Select the C with the highest accuracy on the held-out part (the smallest C on ties), refit on *all* training images,
   and predict the test images.

The problem is convex and is solved to convergence, so it has no seed, schedule or number of epochs. The solver is
scikit-learn's L-BFGS in float64 on one thread, which gives the same numbers on every machine.

**Nuisances** (scene, light, pose). An encoder for look-alike classes should ignore them, so lower is better.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from ppssl.data.label_splits import select_held_out
from ppssl.metrics.retrieval import check_embeddings

__all__ = [
    "C_GRID",
    "LogisticRegressionResult",
    "linear_probe_predictions",
    "logistic_regression_probe",
    "nuisance_probe",
]

VAL_FRACTION = 0.2
"""Part of each class of the training images on which C is selected."""
C_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The values of C that are tried."""
TOLERANCE = 1e-6
MAX_ITERATIONS = 1000
RIDGE_ALPHAS = tuple(np.logspace(-1, 5, 13))
"""The ridge penalties that are tried."""
MAX_CATEGORIES = 12
"""A nuisance with at most this many different values is categorical."""


@dataclass(frozen=True)
class LogisticRegressionResult:
    """Result of :func:`logistic_regression_probe`.

    Attributes:
        c: The selected inverse penalty.
        val_accuracy: Top-1 accuracy in [0, 1] on the held-out part, before the refit on all images.
        val_accuracies: Top-1 accuracy on the held-out part for each C, in ascending order of C.
        predictions: ``(T,)`` int64, the predicted labels of the test images.
    """

    c: float
    val_accuracy: float
    val_accuracies: dict[float, float]
    predictions: Tensor


def linear_probe_predictions(
    train: Tensor, train_labels: Tensor, test: Tensor, *, seed: int
) -> Tensor:
    """Predict ``test`` by logistic regression, with C selected on a held-out fifth of each class of ``train``.

    Args:
        train: ``(N, D)`` floating point, un-normalised.
        train_labels: ``(N,)`` int64, all known.
        test: ``(T, D)`` floating point.
        seed: Seed of the held-out part.

    Returns:
        The predicted labels, ``(T,)`` int64.
    """
    labels = train_labels.numpy()
    all_rows = np.arange(len(labels))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[select_held_out(labels, all_rows, VAL_FRACTION, seed)] = True
    return logistic_regression_probe(train, train_labels, test, held_out=held_out).predictions


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
        train_labels: ``(N,)`` integer; images with a negative (unknown) label are left out.
        test: ``(T, D)`` floating point.
        held_out: ``(N,)`` bool, the images on which C is selected; see
            :func:`ppssl.data.label_splits.select_held_out`.
        c_grid: The inverse penalties to try, > 0.

    Returns:
        The selection, and the predictions after a refit on all labelled images of ``train``.
    """
    grid = _check_arguments(train, train_labels, test, held_out, c_grid)
    has_label = (train_labels >= 0).cpu().numpy()
    x, y = _to_array(train)[has_label], train_labels.cpu().numpy()[has_label]
    val = held_out.cpu().numpy()[has_label]
    _check_parts(y, val)
    with threadpool_limits(limits=1):
        accuracies = _held_out_accuracies(x[~val], y[~val], x[val], y[val], grid)
        best = max(accuracies, key=lambda c: (accuracies[c], -c))
        predictions = _classifier(best).fit(x, y).predict(_to_array(test))
    predicted = torch.from_numpy(predictions.astype(np.int64))
    return LogisticRegressionResult(best, accuracies[best], accuracies, predicted)


def nuisance_probe(
    train: Tensor,
    train_values: np.ndarray,
    test: Tensor,
    test_values: np.ndarray,
    *,
    names: Sequence[str],
) -> dict[str, float]:
    """Predict each nuisance from the embeddings by ridge regression, with the penalty selected on ``train``.

    Args:
        train: ``(N, D)`` embeddings, un-normalised; each feature is standardised.
        train_values: ``(N, K)``, the nuisances.
        test: ``(T, D)`` embeddings.
        test_values: ``(T, K)``, the nuisances.
        names: Names of the K nuisances.

    Returns:
        The skill by name. Categorical nuisances: ``(accuracy - chance) / (1 - chance)``, where chance is the share of
        the most frequent value. Continuous nuisances: R squared. 1 is perfect, 0 is chance, below 0 is worse.
    """
    expected = {"train": (len(train), len(names)), "test": (len(test), len(names))}
    for part, values in (("train", train_values), ("test", test_values)):
        if values.shape != expected[part]:
            raise ValueError(
                f"`{part}_values` must be (images, nuisances) = {expected[part]}, got {values.shape}."
            )
    x, x_test = train.double().numpy(), test.double().numpy()
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    with threadpool_limits(limits=1):
        return {
            name: _nuisance_skill(x, train_values[:, k], x_test, test_values[:, k])
            for k, name in enumerate(names)
        }


def _nuisance_skill(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    values, codes = np.unique(y, return_inverse=True)
    if len(values) > MAX_CATEGORIES:
        return float(r2_score(y_test, RidgeCV(RIDGE_ALPHAS).fit(x, y).predict(x_test)))
    counts = np.bincount(np.searchsorted(values, y_test), minlength=len(values))
    chance = counts.max() / len(y_test)
    predicted = values[RidgeClassifierCV(RIDGE_ALPHAS).fit(x, codes).predict(x_test)]
    accuracy = (predicted == y_test).mean()
    return float((accuracy - chance) / (1 - chance))


def _held_out_accuracies(
    x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, grid: list[float]
) -> dict[float, float]:
    """Held-out accuracy for each C; each fit starts from the previous one, which has the larger penalty."""
    model = _classifier(grid[0], warm_start=True)
    accuracies = {}
    with warnings.catch_warnings():
        # The weakest penalties may not converge; only the selected one has to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in grid:
            model.set_params(logisticregression__C=c).fit(x, y)
            accuracies[c] = float(model.score(x_val, y_val))
    return accuracies


def _classifier(c: float, *, warm_start: bool = False) -> Pipeline:
    solver = LogisticRegression(C=c, tol=TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=warm_start)
    return make_pipeline(StandardScaler(), solver)


def _to_array(features: Tensor) -> np.ndarray:
    if not features.isfinite().all():
        raise ValueError("`train` and `test` must be finite, got NaN or infinity.")
    return features.detach().cpu().double().numpy()


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
        raise ValueError(f"`c_grid` must be one or more numbers > 0, got {tuple(c_grid)}.")
    return sorted({float(c) for c in c_grid})


def _check_parts(labels: np.ndarray, val: np.ndarray) -> None:
    """Raise if no labelled image is held out, or fewer than two classes remain to be fitted."""
    if not val.any():
        raise ValueError(
            "`held_out` must contain a labelled image, got none: C cannot be selected. Label more images."
        )
    classes = len(np.unique(labels[~val]))
    if classes < 2:
        raise ValueError(
            "`train` must have labelled images of two classes or more besides the held-out images, "
            f"got {classes}."
        )
