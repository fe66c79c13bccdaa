"""Nuisance probe of frozen embeddings: ridge regression predicts scene, light and pose.

An encoder for look-alike classes should ignore nuisances, so lower is better.
"""

import math
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["nuisance_probe"]

RIDGE_ALPHAS = tuple(np.logspace(-1, 5, 13))
"""The ridge penalties that are tried."""
MAX_CATEGORIES = 12
"""A nuisance with at most this many different values is categorical."""


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
        the most frequent value. Continuous nuisances: R squared. 1 is perfect, 0 is chance, below 0 is worse. NaN of a
        nuisance that is the same in all images of ``train`` or of ``test``.
    """
    expected = {"train": (len(train), len(names)), "test": (len(test), len(names))}
    for part, values in (("train", train_values), ("test", test_values)):
        if values.shape != expected[part]:
            raise ValueError(
                f"`{part}_values` must be (images, nuisances) = {expected[part]}, got {values.shape}."
            )
    x, x_test = train.cpu().double().numpy(), test.cpu().double().numpy()
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    with threadpool_limits(limits=1):
        return {
            name: _nuisance_skill(x, train_values[:, k], x_test, test_values[:, k])
            for k, name in enumerate(names)
        }


def _nuisance_skill(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    values, codes = np.unique(y, return_inverse=True)
    test_values, counts = np.unique(y_test, return_counts=True)
    if len(values) == 1 or len(test_values) == 1:
        return math.nan
    if len(values) > MAX_CATEGORIES:
        return float(r2_score(y_test, RidgeCV(RIDGE_ALPHAS).fit(x, y).predict(x_test)))
    chance = counts.max() / len(y_test)
    predicted = values[RidgeClassifierCV(RIDGE_ALPHAS).fit(x, codes).predict(x_test)]
    accuracy = (predicted == y_test).mean()
    return float((accuracy - chance) / (1 - chance))
