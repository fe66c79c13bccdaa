"""Retrieval: against loops and sklearn, known limits, ties, padding, order, batches, chunks, ranks."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.testing import assert_close

from ppssl.metrics.retrieval import (
    RetrievalMetrics,
    cosine_similarity,
    first_occurrence,
    gather_rows,
    per_query_retrieval,
    retrieval_metrics,
    unit_rows,
)
from reference.retrieval import retrieval_loops

KEYS = {"rank-1", "rank-5", "mAP"}


def random_set(
    n: int, dim: int, classes: int, *, seed: int = 0, ties: bool = False
) -> tuple[Tensor, Tensor]:
    """Embeddings of both signs and labels; with ``ties``, few different vectors, of several lengths."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=g)
    if ties:
        x = torch.randint(-1, 2, (n, dim), generator=g) * torch.rand(n, 1, generator=g)
    return x, torch.randint(0, classes, (n,), generator=g)


def filled(x: Tensor, y: Tensor, index: Tensor | None = None, batch: int = 7) -> RetrievalMetrics:
    metric = RetrievalMetrics()
    index = torch.arange(len(x)) if index is None else index
    for rows in torch.arange(len(x)).split(batch):
        metric.update(x[rows], y[rows], index[rows])
    return metric


def computed(metric: RetrievalMetrics) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("n", "dim", "classes"), [(2, 3, 1), (9, 1, 3), (40, 3, 6), (60, 16, 40), (50, 2, 2)]
)
def test_equals_loops(n: int, dim: int, classes: int, ties: bool) -> None:
    x, y = random_set(n, dim, classes, ties=ties)
    y[3:5] = -1
    precision, rank, means = retrieval_loops(x.double().numpy(), y.numpy())
    ours = per_query_retrieval(x, y)
    assert_close(
        ours.average_precision,
        torch.tensor(precision, dtype=torch.float64),
        equal_nan=True,
        rtol=0,
        atol=1e-12,
    )
    assert ours.first_rank.tolist() == rank
    assert ours.valid.tolist() == [r > 0 for r in rank]
    assert retrieval_metrics(x, y) == pytest.approx(means, abs=1e-12, nan_ok=True)
    assert computed(filled(x, y)) == pytest.approx(means, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_equals_sklearn(ties: bool) -> None:
    x, y = random_set(150, 5, 30, ties=ties)
    y[7] = 30  # a class of one image
    similarity = cosine_similarity(unit_rows(x), unit_rows(x)).numpy()
    assert (similarity < 0).mean() > 0.3
    others = ~np.eye(len(x), dtype=bool)
    expected = [
        average_precision_score(y[others[q]] == y[q], similarity[q][others[q]])
        for q in range(len(x))
        if (y == y[q]).sum() > 1
    ]
    ours = per_query_retrieval(x, y)
    assert_close(
        ours.average_precision[ours.valid],
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    assert computed(filled(x, y))["mAP"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_perfect_and_worst_order() -> None:
    y = torch.arange(6) // 2
    apart = torch.eye(3)[y]
    assert retrieval_metrics(apart, y) == {"rank-1": 1, "rank-5": 1, "mAP": 1}
    # The only relevant image is the farthest.
    mirrored = apart * torch.tensor([1.0, -1.0]).repeat(3)[:, None]
    assert retrieval_metrics(mirrored, y) == pytest.approx({"rank-1": 0, "rank-5": 1, "mAP": 1 / 5})


def test_relevant_images_at_negative_similarity_count() -> None:
    x = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-1.0, 0.0]])
    assert retrieval_metrics(x, torch.tensor([0, 0, 1]))["rank-1"] == 0.5


def test_collapse_scores_the_share_of_the_class_and_no_rank() -> None:
    x = torch.randn(1, 77).expand(60, 77)
    y = torch.arange(60) % 6
    assert retrieval_metrics(x, y) == pytest.approx({"rank-1": 0, "rank-5": 0, "mAP": 9 / 59})


def test_ties_go_against_the_query() -> None:
    x = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1]])
    ours = per_query_retrieval(x, torch.tensor([0, 0, 1, 2]))
    assert ours.first_rank.tolist() == [3, 3, 0, 0]
    assert ours.average_precision[:2].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert_close(
        ours.values()["rank-5"], torch.tensor([1, 1, torch.nan, torch.nan]).double(), equal_nan=True
    )
    assert ours.values()["rank-1"][:2].tolist() == [0, 0]


def test_images_without_a_partner_query_not_but_are_found() -> None:
    x = torch.tensor([[1.0, 0], [1, 0.5], [1, 0.1]])
    ours = per_query_retrieval(x, torch.tensor([0, 0, 1]))
    assert ours.valid.tolist() == [True, True, False]
    assert ours.first_rank.tolist() == [2, 2, 0]
    assert ours.average_precision.isnan().tolist() == [False, False, True]


def test_unknown_labels_are_as_if_they_were_not_there() -> None:
    x, y = random_set(50, 4, 8)
    y[::3] = -1
    assert retrieval_metrics(x, y) == retrieval_metrics(x[y >= 0], y[y >= 0])
    assert not per_query_retrieval(x, y).valid[::3].any()


@pytest.mark.parametrize("labels", [[3], [0, 1, 2], [-1, -1, -1]])
def test_nothing_to_find_is_nan_with_a_warning(labels: list[int]) -> None:
    metric = filled(torch.randn(len(labels), 4), torch.tensor(labels))
    with pytest.warns(UserWarning, match="no valid query"):
        result = metric.compute()
    assert set(result) == KEYS
    assert all(value.isnan() for value in result.values())


def test_padding_duplicates_are_dropped_and_the_first_counts() -> None:
    x, y = random_set(30, 4, 5)
    index = torch.randperm(1000)[:30]
    expected = computed(filled(x, y, index))
    again = torch.cat([index, index[:9], index[:4]])
    other = torch.cat([x, torch.randn(9, 4), x[:4]])
    assert computed(filled(other, torch.cat([y, y[:9], y[:4]]), again)) == expected
    assert expected == pytest.approx(retrieval_metrics(x, y), abs=1e-6)


def test_first_occurrence() -> None:
    assert first_occurrence(torch.tensor([7, 3, 7, 0, 3, 9])).tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("batch", [1, 8, 45])
@pytest.mark.parametrize("ties", [False, True])
def test_batches_and_order_do_not_matter(batch: int, ties: bool) -> None:
    x, y = random_set(45, 6, 7, ties=ties)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(1))
    expected = computed(filled(x, y, batch=45))
    assert computed(filled(x[order], y[order], order, batch=batch)) == pytest.approx(
        expected, abs=1e-12
    )
    straight, shuffled = per_query_retrieval(x, y), per_query_retrieval(x[order], y[order])
    assert shuffled.first_rank.tolist() == straight.first_rank[order].tolist()


@pytest.mark.parametrize("chunk_size", [1, 7, 200, 1000])
def test_chunks_do_not_matter(chunk_size: int) -> None:
    x, y = random_set(200, 33, 3, ties=True)
    ours = per_query_retrieval(x, y, chunk_size=chunk_size)
    expected = per_query_retrieval(x, y)
    assert_close(ours.average_precision, expected.average_precision, rtol=0, atol=1e-12)
    assert ours.first_rank.equal(expected.first_rank)


def test_chunks_bound_the_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    heights = []

    def spy(left: Tensor, right: Tensor) -> Tensor:
        heights.append(len(left))
        return cosine_similarity(left, right)

    monkeypatch.setattr("ppssl.metrics.retrieval.cosine_similarity", spy)
    monkeypatch.setattr("ppssl.metrics.retrieval.CHUNK_ELEMENTS", 5 * 64 + 3)
    per_query_retrieval(*random_set(64, 4, 2))
    assert max(heights) == 5
    assert sum(heights) == 64


def test_length_of_embeddings_does_not_matter() -> None:
    x, y = random_set(40, 5, 4)
    scale = torch.logspace(-200, 200, 40, dtype=torch.float64)[:, None]
    assert retrieval_metrics(x.double() * scale, y) == pytest.approx(
        retrieval_metrics(x, y), abs=1e-9
    )


def test_zero_embeddings_are_at_similarity_zero() -> None:
    x, y = random_set(20, 5, 3)
    x[:4] = 0
    assert unit_rows(x)[:4].eq(0).all()
    assert all(0 <= value <= 1 for value in retrieval_metrics(x, y).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_widened(dtype: torch.dtype) -> None:
    x, y = random_set(40, 8, 5)
    x = x.to(dtype)
    metric = filled(x, y)
    assert metric.embeddings[0].dtype == torch.float32
    assert computed(metric) == pytest.approx(retrieval_metrics(x.float(), y), abs=1e-6)


def test_autocast_does_not_lower_the_precision() -> None:
    x, y = random_set(80, 32, 8)
    expected = retrieval_metrics(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(x, y) == expected


def test_inputs_stay_as_they_are() -> None:
    x, y = random_set(20, 4, 3)
    x = x.double().requires_grad_()
    before = x.detach().clone()
    metric = filled(x.float(), y)
    retrieval_metrics(x, y)
    unit_rows(x.detach())
    assert x.equal(before)
    assert not metric.embeddings[0].requires_grad


@pytest.mark.parametrize(
    ("x", "y", "index", "match"),
    [
        (
            torch.ones(3),
            torch.zeros(3).long(),
            torch.arange(3),
            r"`embeddings` must be \(N, D\).*got \(3,\)",
        ),
        (torch.ones(3, 2).long(), torch.zeros(3).long(), torch.arange(3), "floating point.*int64"),
        (
            torch.ones(3, 2),
            torch.zeros(2).long(),
            torch.arange(3),
            r"`labels` must be \(3,\).*got \(2,\)",
        ),
        (torch.ones(3, 2), torch.zeros(3), torch.arange(3), "`labels`.*float32"),
        (
            torch.ones(3, 2),
            torch.zeros(3).long(),
            torch.arange(4),
            r"`index` must be \(3,\).*got \(4,\)",
        ),
    ],
)
def test_wrong_shapes_are_refused(x: Tensor, y: Tensor, index: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RetrievalMetrics().update(x, y, index)


def test_other_errors_name_the_rule() -> None:
    x, y = random_set(10, 4, 2)
    metric = filled(x, y)
    with pytest.raises(ValueError, match=r"must all have 4 dimensions.*got 5"):
        metric.update(torch.ones(2, 5), y[:2], y[:2])
    with pytest.raises(ValueError, match="`chunk_size` must be >= 1, got 0"):
        retrieval_metrics(x, y, chunk_size=0)
    x[2:4, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in 2 of 10 rows"):
        retrieval_metrics(x, y)
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(ValueError, match="call `update` first"),
    ):
        RetrievalMetrics().compute()


def test_reset_and_pickle() -> None:
    x, y = random_set(20, 4, 3)
    metric = filled(x, y)
    expected = computed(metric)
    assert computed(pickle.loads(pickle.dumps(metric))) == expected
    metric.reset()
    metric.update(x, y, torch.arange(20))
    assert computed(metric) == expected


def test_merge_state_equals_one_metric() -> None:
    x, y = random_set(31, 4, 3)
    left, right = filled(x[:20], y[:20]), filled(x[15:], y[15:], torch.arange(15, 31))
    left.merge_state(right)
    assert computed(left) == pytest.approx(computed(filled(x, y)), abs=1e-12)


def test_each_state_is_gathered_once_whatever_the_number_of_batches() -> None:
    x, y = random_set(31, 4, 3)
    other = iter([x[17:], y[17:], torch.arange(17, 31)])
    metric = RetrievalMetrics(
        dist_sync_fn=lambda rows, group: [rows, next(other)], distributed_available_fn=lambda: True
    )
    for rows in torch.arange(17).split(4):
        metric.update(x[rows], y[rows], rows)
    assert computed(metric) == pytest.approx(computed(filled(x, y)), abs=1e-12)


def test_a_rank_without_images_sends_none_of_the_right_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = []

    def two_ranks(tensor: Tensor, group: object = None) -> list[Tensor]:
        sent.append(tensor)
        return [torch.tensor([2, 5, 0]), tensor] if len(sent) == 1 else [torch.ones(4, 5), tensor]

    monkeypatch.setattr("ppssl.metrics.retrieval.gather_all_tensors", two_ranks)
    rows = gather_rows(torch.tensor([]))
    assert torch.cat(rows).shape == (4, 5)
    assert sent[1].shape == (0, 5)


def _rank(rank: int, shares: list[list[int]], x: Tensor, y: Tensor, file: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    metric = RetrievalMetrics()
    for rows in torch.tensor(shares[rank], dtype=torch.int64).split(4):
        if len(rows):
            metric.update(x[rows], y[rows], rows)
    result = computed(metric)
    torch.save(result, f"{file}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("first", [11, 16, 0], ids=["uneven", "padded", "empty rank"])
def test_two_processes_equal_one(first: int, tmp_path: Path) -> None:
    x, y = random_set(31, 4, 3)
    shares = [list(range(first)), list(range(first, 31))]
    if first == 16:
        shares[1].append(0)  # the sampler's padding
    mp.spawn(_rank, args=(shares, x, y, str(tmp_path / "store")), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"store.{rank}") == pytest.approx(
            computed(filled(x, y)), abs=1e-12
        )
