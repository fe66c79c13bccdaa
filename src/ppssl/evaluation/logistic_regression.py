"""Linear probe of frozen embeddings, protocol `clean-1`: logistic regression, chosen without a look at the test set.

1. Standardise every feature by the mean and standard deviation of the images that are fitted.
2. Fit multinomial logistic regression with an L2 penalty, for each C, to the part of train that is not held out::

       minimise over W, b:   C * sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / 2      (b is not penalised)

   (with two classes scikit-learn penalises ``W_1 - W_0`` in place of W: the same models, at C / 2).

3. Keep the C with the best accuracy on the held-out part (of equals the smallest), fit *all* of train, predict test.

The problem is convex and is solved to convergence, so there is no seed, no schedule and no epoch to pick. The solver is
scikit-learn's L-BFGS in float64 on one thread: the same numbers on any machine, and on a machine shared with other work
faster than two threads, which wait for each other at every vector operation.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from ppssl.metrics.retrieval import check_embeddings

__all__ = ["C_GRID", "LinearProbeResult", "logistic_regression_probe"]

C_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TOLERANCE = 1e-6
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearProbeResult:
    """What a linear probe found.

    Attributes:
        c: The inverse penalty that was chosen.
        val_accuracy: Top-1 accuracy in [0, 1] on the held-out part, before it was added to the fit.
        val_accuracies: The same for every C tried, in ascending order of C.
        predictions: ``(T,)`` int64 labels of the test images.
    """

    c: float
    val_accuracy: float
    val_accuracies: dict[float, float]
    predictions: Tensor


def logistic_regression_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    held_out: Tensor,
    c_grid: Sequence[float] = C_GRID,
) -> LinearProbeResult:
    """Fit a linear classifier to ``train``, C chosen on its held-out part, and predict ``test``.

    Args:
        train: ``(N, D)`` floating point, un-normalised.
        train_labels: ``(N,)`` integer; images with a negative (unknown) label are left out.
        test: ``(T, D)`` floating point.
        held_out: ``(N,)`` bool, the images on which C is chosen; see :func:`ppssl.data.labels.held_out`.
        c_grid: Inverse penalties to try, > 0.

    Returns:
        The choice, and the predictions after a last fit to all labelled images of ``train``.
    """
    grid = _check(train, train_labels, test, held_out, c_grid)
    known = (train_labels >= 0).cpu().numpy()
    x, y = _array(train)[known], train_labels.cpu().numpy()[known]
    val = held_out.cpu().numpy()[known]
    _check_parts(y, val)
    with threadpool_limits(limits=1):
        accuracies = _accuracies(x[~val], y[~val], x[val], y[val], grid)
        best = max(accuracies, key=lambda c: (accuracies[c], -c))
        predictions = _model(best).fit(x, y).predict(_array(test))
    return LinearProbeResult(
        best, accuracies[best], accuracies, torch.from_numpy(predictions.astype(np.int64))
    )


def _accuracies(
    x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, grid: list[float]
) -> dict[float, float]:
    """Held-out accuracy for each C; each fit starts from the one before, which has the larger penalty."""
    model = _model(grid[0], warm_start=True)
    found = {}
    with warnings.catch_warnings():
        # The weakest penalties may not converge; only the chosen one has to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in grid:
            model.set_params(logisticregression__C=c).fit(x, y)
            found[c] = float(model.score(x_val, y_val))
    return found


def _model(c: float, *, warm_start: bool = False) -> Pipeline:
    solver = LogisticRegression(C=c, tol=TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=warm_start)
    return make_pipeline(StandardScaler(), solver)


def _array(features: Tensor) -> np.ndarray:
    if not features.isfinite().all():
        raise ValueError("Features of a linear probe must be finite, got NaN or infinity.")
    return features.detach().cpu().double().numpy()


def _check(
    train: Tensor, labels: Tensor, test: Tensor, held_out: Tensor, c_grid: Sequence[float]
) -> list[float]:
    """Check shapes and kinds; the grid in ascending order, each C once."""
    check_embeddings(train, train_labels=labels)
    check_embeddings(test)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"`train` and `test` must have as many dimensions, got {train.shape[1]} and {test.shape[1]}."
        )
    if held_out.shape != labels.shape or held_out.dtype != torch.bool:
        raise ValueError(
            f"`held_out` must be ({len(labels)},) bool like `train`, "
            f"got {tuple(held_out.shape)} {held_out.dtype}."
        )
    if not c_grid or not all(c > 0 for c in c_grid):
        raise ValueError(f"`c_grid` must be one or more numbers > 0, got {tuple(c_grid)}.")
    return sorted({float(c) for c in c_grid})


def _check_parts(labels: np.ndarray, val: np.ndarray) -> None:
    """Both parts must have labelled images, the fitted one of two classes."""
    if not val.any():
        raise ValueError("`held_out` must hold out a labelled image, got none: C cannot be chosen.")
    if len(np.unique(labels[~val])) < 2:
        raise ValueError(
            "A linear probe needs labelled images of two classes or more beside the held-out ones, "
            f"got {len(np.unique(labels[~val]))}."
        )
