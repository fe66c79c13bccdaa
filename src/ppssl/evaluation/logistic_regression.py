"""Multinomial logistic regression on embeddings, by L-BFGS on the device of the embeddings.

Features are standardised by the mean and standard deviation of the N fitted images (the rows of X below), and ::

    minimise over W, b:   F(W, b) = mean_i -log softmax(x_i W + b)[y_i] + |W|^2 / (2 C N)      (b is not penalised)

which is scikit-learn's ``LogisticRegression(C=C)`` after its ``StandardScaler``. For two classes scikit-learn penalises
``W_1 - W_0`` instead of W: the same models at C / 2, which is what is solved here too.

**Preconditioner.** For each class the Hessian is about ``H = h X^T X / N + I / (C N)``, with h the mean of p (1 - p)
over images and classes. L-BFGS minimises over ``V = U W`` with ``U^T U = H`` (Cholesky), where the Hessian is near the
identity: the number of steps hardly depends on how correlated the features are, and one tolerance of the gradient fits
all C.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["LinearClassifier", "LogisticRegression"]

TOLERANCE = 2e-5
"""Largest absolute component of dF/dV at which the optimum is found."""
MIN_DECREASE = 1e-9
"""Smallest decrease of F in a step; below it the optimum is found."""
MAX_ITERATIONS = 1000
MIN_CURVATURE = 1e-6


@dataclass(frozen=True)
class LinearClassifier:
    """Linear classifier of standardised features.

    Attributes:
        mean: ``(D,)`` float64.
        std: ``(D,)`` float64; 1 for constant features.
        weight: W, ``(D, K)``.
        bias: b, ``(K,)``.
        classes: ``(K,)`` int64, the labels in ascending order.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    classes: Tensor

    def standardise(self, features: Tensor) -> Tensor:
        """Standardise features: ``(B, D) -> (B, D)`` of the dtype of the weights."""
        return ((features.double() - self.mean) / self.std).to(self.weight.dtype)

    def predict(self, features: Tensor) -> Tensor:
        """Predict labels: ``(B, D) -> (B,)`` int64."""
        logits = self.standardise(features) @ self.weight + self.bias
        return self.classes[logits.argmax(dim=1)]


class LogisticRegression:
    """Logistic regression of a set of images, for any C.

    Products are float32 on the CPU, where float64 takes three times as long, and float64 elsewhere, where TF32 cannot
    round them. Statistics and preconditioner are float64.

    Args:
        features: ``(N, D)`` floating point, finite.
        labels: ``(N,)`` int64 on the same device, of two classes or more.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.classes, self._target = labels.unique(return_inverse=True)
        x = features.double()
        mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
        std = std.where(std > 0, 1)
        dtype = torch.float32 if x.device.type == "cpu" else torch.float64
        zeros = x.new_zeros(x.shape[1] + 1, len(self.classes), dtype=dtype)
        self._zero = LinearClassifier(mean, std, zeros[:-1], zeros[-1], self.classes)
        self._x = self._zero.standardise(x)
        x = self._x.double()
        self._gram = x.T @ x / len(x)

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """Minimise F.

        Args:
            c: Inverse penalty C, > 0.
            start: Weights to start from, such as those of a smaller C or of a part of the images; ``None``: zeros.
        """
        start = self._zero if start is None else self._with_all_classes(start)
        c = c / 2 if len(self.classes) == 2 else c
        penalty = 1 / (c * len(self._x))
        curvature = self._curvature(start)
        factor = self._factor(curvature, penalty)
        scale = curvature**-0.5
        v = torch.cat([factor @ start.weight, start.bias[None] / scale])

        def weights(v: Tensor) -> tuple[Tensor, Tensor]:
            return torch.linalg.solve_triangular(factor, v[:-1], upper=True), v[-1] * scale

        def objective(v: Tensor) -> Tensor:
            weight, bias = weights(v)
            losses = cross_entropy(self._x @ weight + bias, self._target, reduction="none")
            return losses.double().mean() + penalty / 2 * weight.double().square().sum()

        weight, bias = weights(_minimise(objective, v))
        return LinearClassifier(start.mean, start.std, weight, bias, self.classes)

    def _with_all_classes(self, other: LinearClassifier) -> LinearClassifier:
        """The weights of another classifier of some of the classes; zeros for the classes that it lacks."""
        columns = torch.searchsorted(self.classes, other.classes)
        weight, bias = self._zero.weight.clone(), self._zero.bias.clone()
        weight[:, columns], bias[columns] = other.weight, other.bias
        return LinearClassifier(self._zero.mean, self._zero.std, weight, bias, self.classes)

    def _curvature(self, at: LinearClassifier) -> float:
        """h: the mean of p (1 - p) over images and classes."""
        p = (self._x @ at.weight + at.bias).softmax(dim=1)
        return max(float((p * (1 - p)).mean()), MIN_CURVATURE)

    def _factor(self, curvature: float, penalty: float) -> Tensor:
        """U, upper triangular ``(D, D)``; slightly more than the penalty, which keeps a large C positive definite."""
        hessian = curvature * self._gram
        hessian.diagonal().add_(penalty + 1e-9 * curvature)
        return torch.linalg.cholesky(hessian, upper=True).to(self._x.dtype)


def _minimise(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimise a smooth function by L-BFGS with line search, and return where its minimum is."""
    v = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [v],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=MIN_DECREASE,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(v)
        value.backward()
        return value

    optimizer.step(closure)
    return v.detach()
