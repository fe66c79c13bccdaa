"""Logistic regression: the optimum against scikit-learn's, and how many evaluations of the loss it takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression as ScikitLearn
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ppssl.evaluation.logistic_regression import LinearClassifier, LogisticRegression

Problem = tuple[Tensor, Tensor]


def clusters(n: int, dim: int, classes: int, *, centres: float, power: float = 0) -> Problem:
    """Clusters whose k-th principal axis has the standard deviation k ** -power, in a random basis."""
    rng = np.random.default_rng(0)
    scale = np.arange(1.0, dim + 1) ** -power
    y = rng.permutation(np.arange(n) % classes)
    x = (centres * rng.standard_normal((classes, dim)))[y] + rng.standard_normal((n, dim))
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return torch.from_numpy((x * scale) @ basis).float(), torch.from_numpy(y)


def with_ties() -> Problem:
    """Each image three times, with different labels."""
    x, y = clusters(60, 5, 3, centres=1)
    return x.repeat(3, 1), torch.cat([y, y, (y + 1) % 3])


def with_constant_features() -> Problem:
    x, y = clusters(200, 8, 4, centres=1)
    x[:, 1], x[:, 5] = 0.1, 0
    return x, y


def unbalanced() -> Problem:
    x, y = clusters(300, 10, 6, centres=1)
    keep = (y > 1) | (torch.arange(300) < 10)
    return x[keep], y[keep]


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "overlapping": lambda: clusters(400, 20, 5, centres=0.5),
    "separable": lambda: clusters(200, 20, 4, centres=4),
    "correlated": lambda: clusters(300, 100, 8, centres=0.5, power=1.5),
    "more dimensions than images": lambda: clusters(80, 300, 5, centres=0.3, power=0.5),
    "one image a class": lambda: clusters(12, 30, 12, centres=1),
    "two classes": lambda: clusters(200, 10, 2, centres=0.4),
    "ties": with_ties,
    "constant features": with_constant_features,
    "unbalanced": unbalanced,
}


def by_scikit_learn(x: Tensor, y: Tensor, c: float) -> ScikitLearn:
    scaled = StandardScaler().fit_transform(x.double().numpy())
    return ScikitLearn(C=c, tol=1e-9, max_iter=20_000).fit(scaled, y.numpy())


def objective(x: Tensor, y: Tensor, weight: np.ndarray, bias: np.ndarray, c: float) -> float:
    """The objective of a multinomial model, ``(K, D)`` and ``(K,)``, in float64."""
    logits = StandardScaler().fit_transform(x.double().numpy()) @ weight.T + bias
    classes = np.unique(y.numpy(), return_inverse=True)[1]
    loss = logsumexp(logits, axis=1) - logits[np.arange(len(y)), classes]
    return float(loss.mean() + (weight**2).sum() / (2 * c * len(y)))


def objectives(
    x: Tensor, y: Tensor, ours: LinearClassifier, theirs: ScikitLearn, c: float
) -> tuple[float, float]:
    """Both in the multinomial form; scikit-learn has a single weight for two classes."""
    weight, bias = theirs.coef_, theirs.intercept_
    if len(weight) == 1:
        weight, bias, c = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2, c / 2
    found = objective(x, y, ours.weight.double().numpy().T, ours.bias.double().numpy(), c)
    return found, objective(x, y, weight, bias, c)


@pytest.mark.parametrize("c", [1e-5, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_optimum_is_scikit_learns(problem: Callable[[], Problem], c: float) -> None:
    x, y = problem()
    found, reference = LogisticRegression(x, y).fit(c), by_scikit_learn(x, y, c)
    ours, theirs = objectives(x, y, found, reference, c)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=5e-6)
    inputs = found.standardise(x)
    probability = torch.from_numpy(reference.predict_proba(inputs.double().numpy()))
    difference = (inputs @ found.weight + found.bias).softmax(dim=1) - probability
    assert difference.abs().max() < 2e-3
    best_two = probability.topk(2, dim=1)
    clear = best_two.values.diff(dim=1)[:, 0] < -4e-3
    expected = torch.from_numpy(reference.classes_)[best_two.indices[:, 0]]
    assert found.predict(x)[clear].equal(expected[clear])


@pytest.fixture
def evaluations(monkeypatch: Any) -> list[int]:
    """One item for each evaluation of the loss and its gradient."""
    calls = []
    step = torch.optim.LBFGS.step

    def counted(self: Any, closure: Callable[[], Tensor]) -> Any:
        def count() -> Tensor:
            calls.append(1)
            return closure()

        return step(self, count)

    monkeypatch.setattr(torch.optim.LBFGS, "step", counted)
    return calls


def test_a_start_saves_time_and_changes_nothing(evaluations: list[int]) -> None:
    """From a stronger penalty, and from a part of the images that lacks a class."""
    x, y = clusters(600, 30, 5, centres=0.5, power=1)
    whole = LogisticRegression(x, y)
    part = LogisticRegression(x[y != 0], y[y != 0]).fit(0.1)
    assert part.classes.tolist() == [1, 2, 3, 4]
    stronger = whole.fit(0.05)
    evaluations.clear()
    expected = whole.fit(0.1)
    without_start = len(evaluations)
    for start in (stronger, part, expected):
        evaluations.clear()
        found = whole.fit(0.1, start)
        assert len(evaluations) < without_start
        torch.testing.assert_close(found.weight, expected.weight, atol=1e-3, rtol=0)
        assert found.predict(x).equal(expected.predict(x))
    assert len(evaluations) < 3


@pytest.mark.parametrize("power", [0, 1, 2])
def test_few_evaluations_however_correlated_the_features_are(
    power: float, evaluations: list[int]
) -> None:
    x, y = clusters(600, 80, 10, centres=0.3, power=power)
    problem, classifier = LogisticRegression(x, y), None
    for c in (1e-4, 1e-2, 1.0):
        classifier = problem.fit(c, classifier)
    assert len(evaluations) < 80


def test_labels_may_be_any_integers() -> None:
    x, y = clusters(100, 6, 3, centres=3)
    labels = torch.tensor([7, 40, 1000])[y]
    assert LogisticRegression(x, labels).fit(1.0).predict(x).equal(labels)


def test_small_values_far_from_zero_are_standardised_exactly() -> None:
    x, y = clusters(200, 6, 3, centres=1)
    far = (x.double() * 1e-4 + 100).float()
    near = LogisticRegression((far.double() - 100).float(), y).fit(1.0)
    torch.testing.assert_close(LogisticRegression(far, y).fit(1.0).weight, near.weight)
