"""What an embedding still says of the nuisances, by ridge regression (METHOD, "What AIS is for").

An encoder for look-alike classes should keep the parts and forget scene, light and pose. The lower these, the better.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["nuisance_probe"]

ALPHAS = tuple(np.logspace(-1, 5, 13))
MOST_VALUES = 12
"""A nuisance of no more different values than these counts as categorical."""


def nuisance_probe(
    train: Tensor,
    train_values: np.ndarray,
    test: Tensor,
    test_values: np.ndarray,
    *,
    names: Sequence[str],
) -> dict[str, float]:
    """How well each nuisance can be read off the features by a linear map, whose penalty is chosen on ``train``.

    Args:
        train: ``(N, D)`` features, un-normalised; they are standardised.
        train_values: ``(N, K)`` the nuisances.
        test: ``(T, D)``.
        test_values: ``(T, K)``.
        names: Of the K nuisances.

    Returns:
        By name: of a nuisance with few values the accuracy over chance, ``(accuracy - chance) / (1 - chance)``, where
        chance is the most frequent value's share; of any other R squared. 1 is all, 0 nothing, below 0 worse than that.
    """
    if train_values.shape != (len(train), len(names)) or test_values.shape != (
        len(test),
        len(names),
    ):
        raise ValueError(
            f"Nuisances must be (images, {len(names)}), got {train_values.shape} for {len(train)} and "
            f"{test_values.shape} for {len(test)} images."
        )
    x, x_test = (features.double().numpy() for features in (train, test))
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    with threadpool_limits(limits=1):
        return {
            name: _skill(x, train_values[:, k], x_test, test_values[:, k])
            for k, name in enumerate(names)
        }


def _skill(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    if len(np.unique(y)) > MOST_VALUES:
        return float(r2_score(y_test, RidgeCV(ALPHAS).fit(x, y).predict(x_test)))
    values, codes = np.unique(y, return_inverse=True)
    chance = np.bincount(np.searchsorted(values, y_test), minlength=len(values)).max() / len(y_test)
    predicted = values[RidgeClassifierCV(ALPHAS).fit(x, codes).predict(x_test)]
    return float(((predicted == y_test).mean() - chance) / (1 - chance))
