"""RankMe: known limits, invariances, the metric, errors."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ppssl.metrics.rankme import RankMe, rankme


def test_collapse_onto_a_line_is_one() -> None:
    x = torch.outer(torch.randn(50).double(), torch.randn(8).double())
    assert rankme(x).item() == pytest.approx(1, abs=1e-5)
    assert rankme(torch.ones(7, 3)).item() == pytest.approx(1)


@pytest.mark.parametrize(("n", "dim"), [(40, 8), (8, 8), (5, 8)])
def test_equal_singular_values_give_the_full_rank(n: int, dim: int) -> None:
    x = torch.linalg.qr(torch.randn(max(n, dim), min(n, dim), dtype=torch.float64)).Q
    assert rankme(x if n >= dim else x.T).item() == pytest.approx(min(n, dim))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rank_is_counted(rank: int) -> None:
    x = torch.zeros(30, 9)
    x[:rank, :rank] = 3 * torch.eye(rank)
    assert rankme(x).item() == pytest.approx(rank)


def test_value_by_hand() -> None:
    p = [0.5, 0.25, 0.25]
    expected = math.exp(-sum(v * math.log(v) for v in p))
    assert rankme(torch.diag(torch.tensor([4.0, 2.0, 2.0, 0.0]))).item() == pytest.approx(expected)


@pytest.mark.parametrize(("n", "dim"), [(1, 1), (1, 6), (60, 4), (4, 60), (30, 30)])
def test_equals_the_singular_values(n: int, dim: int) -> None:
    x = torch.randn(n, dim, dtype=torch.float64)
    sigma = np.linalg.svd(x.numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    expected = np.exp(-sum(v * np.log(v) for v in p if v > 0))
    assert rankme(x).item() == pytest.approx(expected, rel=1e-5)
    assert 1 - 1e-9 <= rankme(x).item() <= min(n, dim) + 1e-9


def test_scale_order_and_rotation_do_not_matter_but_row_length_does() -> None:
    x = torch.randn(40, 6, dtype=torch.float64) * torch.logspace(-2, 1, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert_close(rankme(1e-20 * x), rankme(x))
    assert_close(rankme(x[torch.randperm(40)] @ rotation), rankme(x))
    assert abs(rankme(x / x.norm(dim=1, keepdim=True)) - rankme(x)) > 1e-2


def test_zero_embeddings_give_zero() -> None:
    assert rankme(torch.zeros(5, 3)).item() == 0


def test_half_precision_is_widened() -> None:
    x = torch.randn(20, 5).bfloat16()
    assert_close(rankme(x), rankme(x.double()))


@pytest.mark.parametrize("batch", [1, 7, 33])
def test_metric_equals_function_without_duplicates(batch: int) -> None:
    x, labels = torch.randn(33, 5), torch.full((33,), -1)
    metric = RankMe()
    for rows in torch.arange(33).split(batch):
        metric.update(x[rows], labels[rows], rows)
    metric.update(100 * x[:6], labels[:6], torch.arange(6))
    assert metric.compute().item() == pytest.approx(rankme(x).item(), rel=1e-5)


def test_errors_name_the_rule() -> None:
    with pytest.raises(ValueError, match=r"must be \(N, D\)"):
        rankme(torch.ones(3))
    with pytest.raises(ValueError, match=r"must not be empty, got \(0, 4\)"):
        rankme(torch.ones(0, 4))
    with pytest.raises(ValueError, match="must be finite"):
        rankme(torch.tensor([[1.0, torch.nan]]))
