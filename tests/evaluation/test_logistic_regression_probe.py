"""Linear probe: the whole against scikit-learn, the choice of C, the held-out part, errors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ppssl.data.label_splits import select_held_out as choose
from ppssl.evaluation import logistic_regression_probe as probe_module
from ppssl.evaluation.logistic_regression_probe import logistic_regression_probe


def blobs(
    n: int, dim: int, classes: int, *, spread: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Overlapping classes, features of different size and offset."""
    centre = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    x = centre[y] + spread * torch.randn(n, dim, generator=g)
    return x * torch.logspace(-2, 2, dim) + 5, y


def held_out_mask(labels: Tensor) -> Tensor:
    """A fifth of each class."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    known = np.flatnonzero(labels.numpy() >= 0)
    mask[choose(labels.numpy(), known, 0.2, seed=0)] = True
    return mask


def by_scikit_learn(x: Tensor, y: Tensor, c: float, test: Tensor) -> Tensor:
    """The predictions of scikit-learn, which starts from zero for each C."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=5000))
    model.fit(x.double().numpy(), y.numpy())
    return torch.from_numpy(model.predict(test.double().numpy()))


@pytest.mark.parametrize(
    ("n", "dim", "classes"), [(300, 12, 5), (300, 12, 2), (60, 200, 3), (40, 8, 12)]
)
def test_probe_equals_scikit_learn_from_end_to_end(n: int, dim: int, classes: int) -> None:
    x, y = blobs(n, dim, classes, spread=2)
    test, _ = blobs(200, dim, classes, spread=2, seed=1)
    held_out = held_out_mask(y)
    grid = (1e-3, 1e-1, 10.0)
    expected = {
        c: (by_scikit_learn(x[~held_out], y[~held_out], c, x[held_out]) == y[held_out])
        .double()
        .mean()
        .item()
        for c in grid
    }
    result = logistic_regression_probe(x, y, test, held_out=held_out, c_grid=grid)
    assert result.val_accuracies == pytest.approx(expected)
    assert result.val_accuracy == max(expected.values()) == expected[result.c]
    assert result.predictions.equal(by_scikit_learn(x, y, result.c, test))
    assert result.predictions.dtype == torch.int64


def test_separable_classes_are_learnt_and_noise_is_not() -> None:
    x, y = blobs(200, 8, 4, spread=0.05)
    test, truth = blobs(100, 8, 4, spread=0.05, seed=1)
    result = logistic_regression_probe(x, y, test, held_out=held_out_mask(y))
    assert result.val_accuracy == 1
    assert result.predictions.equal(truth)
    noise = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(400) % 4
    found = logistic_regression_probe(
        noise[:200], labels[:200], noise[200:], held_out=held_out_mask(labels[:200])
    )
    assert (found.predictions == labels[200:]).float().mean() < 0.4


def test_of_equal_accuracies_the_smallest_c_is_kept() -> None:
    x, y = blobs(200, 8, 4, spread=0.05)
    result = logistic_regression_probe(
        x, y, x, held_out=held_out_mask(y), c_grid=(10.0, 0.1, 1.0, 0.1)
    )
    assert list(result.val_accuracies) == [0.1, 1.0, 10.0]
    assert set(result.val_accuracies.values()) == {1.0}
    assert result.c == 0.1


def test_c_is_chosen_on_the_held_out_part_alone() -> None:
    """Held-out labels are the wrong ones: whatever fits train best must not be what is chosen by."""
    x, y = blobs(200, 8, 4, spread=0.05)
    held_out = held_out_mask(y)
    y[held_out] = (y[held_out] + 1) % 4
    assert (
        logistic_regression_probe(x, y, x[:3], held_out=held_out, c_grid=(0.1, 1.0)).val_accuracy
        == 0
    )


def test_the_last_fit_uses_the_held_out_part() -> None:
    """A class that is only in the held-out part can be predicted at last."""
    x, y = blobs(200, 8, 4, spread=0.05)
    result = logistic_regression_probe(x, y, x, held_out=y == 3, c_grid=(1.0,))
    assert result.val_accuracy == 0
    assert result.predictions.equal(y)


def test_scale_and_offset_of_features_do_not_matter() -> None:
    x, y = blobs(150, 6, 3)
    held_out = held_out_mask(y)
    plain = logistic_regression_probe(x, y, x, held_out=held_out)
    moved = logistic_regression_probe(x * 1000 - 7, y, x * 1000 - 7, held_out=held_out)
    assert moved.val_accuracies == plain.val_accuracies
    assert moved.predictions.equal(plain.predictions)


def test_unknown_labels_are_left_out() -> None:
    x, y = blobs(150, 6, 3)
    y[::4] = -1
    held_out = held_out_mask(y)
    known = y >= 0
    expected = logistic_regression_probe(x[known], y[known], x, held_out=held_out[known])
    result = logistic_regression_probe(x, y, x, held_out=held_out)
    assert result.val_accuracies == expected.val_accuracies
    assert result.predictions.equal(expected.predictions)


def test_constant_features_and_bfloat16_and_label_gaps_are_fine() -> None:
    x, y = blobs(100, 6, 3, spread=0.05)
    x[:, 2] = 7
    result = logistic_regression_probe(
        x.bfloat16(), y * 10, x.bfloat16(), held_out=held_out_mask(y), c_grid=(0.1,)
    )
    assert result.predictions.equal(y * 10)


def test_each_fit_starts_near_its_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer evaluations of the loss than from the fit before, and far fewer than from zero."""
    x, y = blobs(400, 30, 6, spread=2)
    calls: list[int] = []
    step = torch.optim.LBFGS.step
    monkeypatch.setattr(
        torch.optim.LBFGS, "step", lambda self, f: step(self, lambda: (calls.append(1), f())[1])
    )
    logistic_regression_probe(x, y, x, held_out=held_out_mask(y))
    from_both = len(calls)
    monkeypatch.setattr(probe_module, "_extrapolate", lambda found: found[-1] if found else None)
    logistic_regression_probe(x, y, x, held_out=held_out_mask(y))
    from_last = len(calls) - from_both
    monkeypatch.setattr(probe_module, "_extrapolate", lambda found: None)
    logistic_regression_probe(x, y, x, held_out=held_out_mask(y))
    from_zero = len(calls) - from_both - from_last
    assert from_both < from_last < from_zero


def test_gradients_and_inference_mode_do_not_matter() -> None:
    """Embeddings may have a gradient or come from inference mode, and the caller may be in it."""
    x, y = blobs(100, 6, 3)
    held_out = held_out_mask(y)
    expected = logistic_regression_probe(x, y, x, held_out=held_out).predictions
    with_gradient = x.clone().requires_grad_()
    found = logistic_regression_probe(with_gradient, y, with_gradient, held_out=held_out)
    assert found.predictions.equal(expected)
    with torch.inference_mode():
        x, y = x.clone(), y.clone()
        inside = logistic_regression_probe(x, y, x, held_out=held_out).predictions
    outside = logistic_regression_probe(x, y, x, held_out=held_out).predictions
    assert inside.equal(expected)
    assert outside.equal(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    """Whatever matrix products in float32 are rounded to, and wherever the labels are."""
    x, y = blobs(300, 12, 5)
    held_out = held_out_mask(y)
    expected = logistic_regression_probe(x, y, x, held_out=held_out)
    torch.set_float32_matmul_precision("medium")
    found = logistic_regression_probe(x.cuda(), y, x.cuda(), held_out=held_out)
    torch.set_float32_matmul_precision("highest")
    assert found.predictions.device.type == "cuda"
    assert found.predictions.cpu().equal(expected.predictions)
    assert found.val_accuracies == pytest.approx(expected.val_accuracies)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"test": torch.ones(2, 5)}, "same number of dimensions, got 4 and 5"),
        ({"test": torch.ones(4)}, r"must be \(N, D\)"),
        ({"train_labels": torch.zeros(5).long()}, r"`train_labels` must be \(6,\)"),
        ({"held_out": torch.tensor([0, 1, 0, 1, 0, 1])}, r"`held_out` must be \(6,\) bool.*int64"),
        ({"held_out": torch.zeros(5).bool()}, r"`held_out` must be \(6,\) bool.*got \(5,\)"),
        ({"held_out": torch.zeros(6).bool()}, "must contain a labelled image, got none"),
        ({"held_out": torch.ones(6).bool()}, "two classes or more.*got 0"),
        ({"train_labels": torch.zeros(6).long()}, "two classes or more.*got 1"),
        ({"c_grid": ()}, r"`c_grid` must be one or more numbers > 0, got \(\)"),
        ({"c_grid": (1.0, 0.0)}, r"`c_grid` must be .*got \(1.0, 0.0\)"),
        ({"train": torch.full((6, 4), torch.nan)}, "must be finite"),
        ({"test": torch.full((2, 4), torch.inf)}, "must be finite"),
    ],
)
def test_errors_name_the_rule(changes: dict[str, object], match: str) -> None:
    arguments = {
        "train": torch.randn(6, 4),
        "train_labels": torch.arange(6) % 3,
        "test": torch.randn(2, 4),
        "held_out": torch.tensor([True, False, False, False, False, True]),
    }
    with pytest.raises(ValueError, match=match):
        logistic_regression_probe(**arguments | changes)  # type: ignore[arg-type]  # wrong on purpose
