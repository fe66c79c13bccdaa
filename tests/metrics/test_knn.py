"""Nearest neighbours: against loops and sklearn, known limits, ties, padding, order, batches, chunks."""

import pickle

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.testing import assert_close

from ppssl.metrics.knn import (
    KNNClassifier,
    Weighting,
    knn_neighbours,
    knn_predict,
    knn_vote,
)
from reference.knn import knn_loops


def random_sets(
    n: int, q: int, dim: int, classes: int, *, ties: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gallery, its labels, queries, theirs; with ``ties``, few different vectors, of several lengths."""
    g = torch.Generator().manual_seed(n + q)
    x = torch.randn(n + q, dim, generator=g)
    if ties:
        x = torch.randint(-1, 2, (n + q, dim), generator=g) * (
            0.1 + torch.rand(n + q, 1, generator=g)
        )
    y = torch.randint(0, classes, (n + q,), generator=g)
    return x[:n], y[:n], x[n:], y[n:]


def filled(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    truth: Tensor,
    *,
    batch: int = 8,
    k: tuple[int, ...] = (1, 3),
) -> KNNClassifier:
    metric = KNNClassifier(k)
    for rows in torch.arange(len(queries)).split(batch):
        metric.update(queries[rows], truth[rows], rows)
    for rows in torch.arange(len(gallery)).split(batch):
        metric.update(gallery[rows], labels[rows], rows, gallery=True)
    return metric


def computed(metric: KNNClassifier) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("weighting", "temperature"), [("uniform", None), ("softmax", 0.07), ("softmax", 2.0)]
)
@pytest.mark.parametrize(
    ("n", "dim", "classes", "k"), [(1, 3, 1, 1), (30, 2, 4, 1), (30, 3, 4, 7), (12, 8, 20, 12)]
)
def test_equals_loops(
    n: int,
    dim: int,
    classes: int,
    k: int,
    weighting: Weighting,
    temperature: float | None,
    ties: bool,
) -> None:
    gallery, labels, queries, _ = random_sets(n, 25, dim, classes, ties=ties)
    if n > 20:
        labels[::7] = -1
    expected = knn_loops(
        gallery.double().numpy(),
        labels.numpy(),
        queries.double().numpy(),
        k=k,
        temperature=temperature,
    )
    ours = knn_predict(
        gallery, labels, queries, k=k, weighting=weighting, temperature=temperature or 1.0
    )
    assert ours.tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_uniform_votes_equal_sklearn(k: int) -> None:
    gallery, labels, queries, _ = random_sets(120, 60, 6, 9)
    sklearn = KNeighborsClassifier(n_neighbors=k, metric="cosine", weights="uniform").fit(
        gallery, labels
    )
    ours = knn_predict(gallery, labels, queries, k=k, weighting="uniform")
    assert ours.tolist() == sklearn.predict(queries).tolist()


def test_one_neighbour_is_the_same_for_every_weighting() -> None:
    gallery, labels, queries, _ = random_sets(50, 50, 4, 9)
    uniform = knn_predict(gallery, labels, queries, k=1, weighting="uniform")
    assert knn_predict(gallery, labels, queries, k=1, temperature=0.001).equal(uniform)


def test_temperature_goes_from_the_nearest_alone_to_equal_votes() -> None:
    gallery, labels, queries, _ = random_sets(50, 50, 4, 9)
    nearest = knn_predict(gallery, labels, queries, k=1)
    equal = knn_predict(gallery, labels, queries, k=9, weighting="uniform")
    assert not nearest.equal(equal)
    assert knn_predict(gallery, labels, queries, k=9, temperature=1e-7).equal(nearest)
    assert knn_predict(gallery, labels, queries, k=9, temperature=1e12).equal(equal)


def test_a_vote_by_hand() -> None:
    similarity, labels = torch.tensor([[0.9, 0.8, 0.7]]).double(), torch.tensor([[4, 2, 2]])
    assert knn_vote(similarity, labels, weighting="uniform").tolist() == [2]
    assert knn_vote(similarity, labels, temperature=0.07).tolist() == [4]
    assert knn_vote(similarity, labels, temperature=0.5).tolist() == [2]


def test_equal_votes_go_to_the_smaller_label() -> None:
    similarity, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]).double(), torch.tensor([[7, 3, 3, 7]])
    assert knn_vote(similarity, labels, weighting="uniform").tolist() == [3]
    assert knn_vote(similarity[:, :1].expand(1, 4), labels).tolist() == [3]


def test_at_equal_similarity_the_smaller_label_is_nearer() -> None:
    gallery = torch.tensor([[1.0, 0], [2, 0], [3, 0], [1, 1]])
    similarity, labels = knn_neighbours(
        gallery, torch.tensor([5, 2, 8, 0]), torch.tensor([[1.0, 0]]), k=4
    )
    assert labels.tolist() == [[2, 5, 8, 0]]
    assert similarity[0, :3].tolist() == [1, 1, 1]
    assert_close(
        similarity, torch.tensor([[1, 1, 1, 0.5**0.5]], dtype=torch.float64), rtol=0, atol=2**-30
    )


def test_neighbours_at_negative_similarity_are_found() -> None:
    similarity, labels = knn_neighbours(
        torch.tensor([[-1.0, 0], [-1, -1]]), torch.tensor([0, 1]), torch.tensor([[1.0, 0]]), k=2
    )
    assert labels.tolist() == [[1, 0]]
    assert similarity[0].tolist() == pytest.approx([-(0.5**0.5), -1], abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_batches_and_order_do_not_matter(ties: bool) -> None:
    gallery, labels, queries, truth = random_sets(40, 30, 3, 4, ties=ties)
    expected = computed(filled(gallery, labels, queries, truth))
    g = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    q = torch.randperm(30, generator=torch.Generator().manual_seed(4))
    assert computed(filled(gallery[g], labels[g], queries[q], truth[q], batch=1)) == expected
    straight = knn_predict(gallery, labels, queries, k=5)
    assert knn_predict(gallery[g], labels[g], queries[q], k=5).equal(straight[q])


def test_what_another_process_has_seen_counts_on_both_sides() -> None:
    """The gallery and the queries are shared out differently, and padded."""
    gallery, labels, queries, truth = random_sets(40, 30, 3, 4, ties=True)
    g, q = torch.arange(40), torch.arange(30)
    other = {
        "gallery_embeddings": gallery[13:],
        "gallery_labels": labels[13:],
        "gallery_index": g[13:],
        "query_embeddings": torch.cat([queries[22:], queries[:1]]),
        "query_labels": torch.cat([truth[22:], truth[:1]]),
        "query_index": torch.cat([q[22:], q[:1]]),
    }
    sent = iter(other.values())
    metric = KNNClassifier(
        (1, 3),
        dist_sync_fn=lambda rows, group: [rows, next(sent)],
        distributed_available_fn=lambda: True,
    )
    assert list(metric._reductions) == list(other)  # the order in which they are gathered
    metric.update(gallery[:13], labels[:13], g[:13], gallery=True)
    metric.update(queries[:22], truth[:22], q[:22])
    assert computed(metric) == computed(filled(gallery, labels, queries, truth))


@pytest.mark.parametrize("chunk_size", [1, 6, 30, 99])
def test_chunks_do_not_matter(chunk_size: int) -> None:
    gallery, labels, queries, _ = random_sets(40, 30, 3, 4, ties=True)
    expected = knn_neighbours(gallery, labels, queries, k=9)
    ours = knn_neighbours(gallery, labels, queries, k=9, chunk_size=chunk_size)
    assert ours[0].equal(expected[0])
    assert ours[1].equal(expected[1])


def test_accuracy_is_the_mean_over_queries() -> None:
    gallery, labels, queries, truth = random_sets(60, 50, 4, 5)
    expected = {
        f"knn-{k}": (knn_predict(gallery, labels, queries, k=k) == truth).float().mean().item()
        for k in (1, 3)
    }
    assert 0 < expected["knn-3"] < 1
    assert computed(filled(gallery, labels, queries, truth)) == pytest.approx(expected)


def test_options_reach_the_vote() -> None:
    gallery, labels, queries, truth = random_sets(60, 50, 4, 5)
    metric = KNNClassifier([9], weighting="uniform")
    metric.update(gallery, labels, torch.arange(60), gallery=True)
    metric.update(queries, truth, torch.arange(50))
    uniform = (
        (knn_predict(gallery, labels, queries, k=9, weighting="uniform") == truth).float().mean()
    )
    assert not uniform.equal((knn_predict(gallery, labels, queries, k=9) == truth).float().mean())
    assert metric.compute()["knn-9"].item() == pytest.approx(uniform.item())


def test_an_image_on_both_sides_finds_itself() -> None:
    x, y, _, _ = random_sets(30, 1, 4, 10)
    assert computed(filled(x, y, x, y, k=(1,))) == {"knn-1": 1.0}


def test_padding_duplicates_are_dropped_on_both_sides() -> None:
    gallery, labels, queries, truth = random_sets(40, 30, 3, 4)
    metric = filled(gallery, labels, queries, truth, k=(5,))
    expected = computed(filled(gallery, labels, queries, truth, k=(5,)))
    metric.update(queries[:9], (truth[:9] + 1) % 4, torch.arange(9))
    metric.update(queries[:9], truth[:9], torch.arange(9), gallery=True)
    assert computed(metric) == expected


def test_unknown_labels_count_on_neither_side() -> None:
    gallery, labels, queries, truth = random_sets(40, 30, 3, 4)
    labels[::3], truth[::4] = -1, -1
    known, asked = labels >= 0, truth >= 0
    expected = computed(filled(gallery[known], labels[known], queries[asked], truth[asked]))
    assert computed(filled(gallery, labels, queries, truth)) == expected


def test_no_known_query_is_nan_with_a_warning() -> None:
    gallery, labels, queries, truth = random_sets(40, 3, 3, 4)
    metric = filled(gallery, labels, queries, torch.full_like(truth, -1))
    with pytest.warns(UserWarning, match="no valid query"):
        assert metric.compute()["knn-3"].isnan()


def test_fewer_neighbours_than_asked_for() -> None:
    gallery, labels, queries, truth = random_sets(3, 20, 3, 4)
    metric = KNNClassifier(k=(5,), fewer=True)
    metric.update(gallery, labels, torch.arange(3), gallery=True)
    metric.update(queries, truth, torch.arange(20))
    predicted = knn_predict(gallery, labels, queries, k=3)
    assert metric.compute()["knn-5"] == (predicted == truth).float().mean()
    unlabelled = KNNClassifier(k=(5,), fewer=True)
    unlabelled.update(gallery, torch.full_like(labels, -1), torch.arange(3), gallery=True)
    unlabelled.update(queries, truth, torch.arange(20))
    with pytest.warns(UserWarning, match="no valid query"):
        assert unlabelled.compute()["knn-5"].isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    gallery, labels, queries, truth = random_sets(40, 30, 3, 4)
    gallery, queries = gallery.to(dtype), queries.to(dtype)
    expected = computed(filled(gallery.float(), labels, queries.float(), truth))
    assert computed(filled(gallery, labels, queries, truth)) == expected


def test_extreme_temperature_and_similarity_stay_finite() -> None:
    similarity = torch.tensor([[1.0, -1.0]]).double()
    assert knn_vote(similarity, torch.tensor([[1, 0]]), temperature=1e-300).tolist() == [1]
    assert knn_vote(-similarity.flip(1), torch.tensor([[1, 0]]), temperature=1e-300).tolist() == [1]


def test_reset_and_pickle() -> None:
    gallery, labels, queries, truth = random_sets(40, 30, 3, 4)
    metric = filled(gallery, labels, queries, truth)
    expected = computed(metric)
    assert computed(pickle.loads(pickle.dumps(metric))) == expected
    metric.reset()
    assert not metric.gallery_embeddings
    assert not metric.query_index


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_gallery_is_refused(k: int) -> None:
    with pytest.raises(
        ValueError, match=f"between 1 and the number of labelled gallery images, 4, got {k}"
    ):
        knn_predict(torch.randn(5, 3), torch.tensor([0, 1, -1, 2, 0]), torch.randn(2, 3), k=k)


def test_metric_refuses_k_beyond_the_gallery() -> None:
    gallery, labels, queries, truth = random_sets(4, 3, 3, 2)
    with pytest.raises(ValueError, match="gallery images, 4, got 20"):
        filled(gallery, labels, queries, truth, k=(1, 20)).compute()


def test_options_are_checked_at_once() -> None:
    with pytest.raises(ValueError, match=r"`k` must be one or more integers >= 1, got \(\)"):
        KNNClassifier(())
    with pytest.raises(ValueError, match=r"`k` must be .*got \(1, 0\)"):
        KNNClassifier((1, 0))
    with pytest.raises(ValueError, match="`temperature` must be > 0, got 0"):
        KNNClassifier(temperature=0.0)
    with pytest.raises(ValueError, match="`temperature` must be > 0, got nan"):
        KNNClassifier(temperature=float("nan"))
    with pytest.raises(ValueError, match=r"`weighting` must be one of .*got 'distance'"):
        KNNClassifier(weighting="distance")  # type: ignore[arg-type]  # the point of the test


def test_arguments_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="as many dimensions, got 3 and 4"):
        knn_predict(torch.randn(5, 3), torch.arange(5), torch.randn(2, 4), k=1)
    with pytest.raises(ValueError, match=r"`labels` must be \(5,\)"):
        knn_predict(torch.randn(5, 3), torch.arange(4), torch.randn(2, 3), k=1)
    monkeypatch.setattr("ppssl.metrics.knn.MAX_GALLERY", 4)
    with pytest.raises(ValueError, match="at most 4 images, got 5"):
        knn_predict(torch.randn(5, 3), torch.arange(5), torch.randn(2, 3), k=1)


@pytest.mark.parametrize(("gallery", "missing"), [(True, "query"), (False, "gallery")])
def test_both_sides_are_needed(gallery: bool, missing: str) -> None:
    metric = KNNClassifier()
    metric.update(torch.randn(3, 2), torch.arange(3), torch.arange(3), gallery=gallery)
    with pytest.raises(ValueError, match=f"`compute` needs {missing} images"):
        metric.compute()
