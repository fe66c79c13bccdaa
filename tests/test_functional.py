import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch import Tensor

from ppssl.functional import (
    info_nce,
    info_nce_logits,
    student_log_probabilities,
    teacher_probabilities,
    text_bank_distillation,
)
from reference.contrastive import info_nce_loops
from reference.distillation import text_bank_distillation_loops


def _unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dim", [2, 7])
@pytest.mark.parametrize("size", [0, 1, 11])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equals_the_loop(batch: int, dim: int, size: int, temperature: float) -> None:
    query, key, queue = (
        _unit(batch, dim, seed=0),
        _unit(batch, dim, seed=1),
        _unit(size, dim, seed=2),
    )
    mask = torch.rand(batch, size, generator=torch.Generator().manual_seed(3)) < 0.4
    for m in (None, mask):
        loss = info_nce(query, key, queue, temperature=temperature, mask=m)
        expected = torch.tensor(info_nce_loops(query, key, queue, temperature, m))
        torch.testing.assert_close(loss, expected, atol=2e-6, rtol=1e-5)


def test_equals_lightly_with_the_same_bank() -> None:
    query, key, queue = (_unit(n, 16, seed=n).float() for n in (6, 7, 40))
    key = key[:6]
    theirs = NTXentLoss(temperature=0.2, memory_bank_size=(40, 16))
    theirs.memory_bank.bank = queue.clone()
    theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    expected = theirs(query.clone().requires_grad_(), key)
    torch.testing.assert_close(info_nce(query, key, queue, temperature=0.2).mean(), expected)


def test_limits() -> None:
    query = _unit(4, 8, seed=0)
    alone = info_nce(query, query, query[:0], temperature=0.2)  # nothing to confuse it with
    assert alone.abs().max() == 0
    everything = torch.ones(4, 9, dtype=torch.bool)
    assert (
        info_nce(query, query, _unit(9, 8, seed=1), temperature=0.2, mask=everything).abs().max()
        == 0
    )
    same = query[:1].expand(5, 8)  # key and all negatives alike: -log(1 / 6)
    loss = info_nce(query[:1], query[:1], same, temperature=0.2)
    torch.testing.assert_close(loss, torch.tensor([6.0]).log())


def test_gradient() -> None:
    query, key, queue = (_unit(n, 4, seed=n).requires_grad_(n == 3) for n in (3, 5, 6))
    # the loss is float32: differences of a float32 function need coarse steps
    loss = lambda q: info_nce(q, key[:3], queue, temperature=0.5).sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(query), query)
    eps = 1e-3
    for b, d in ((0, 0), (1, 3), (2, 2)):
        shift = torch.zeros_like(query)
        shift[b, d] = eps
        numeric = (loss(query + shift) - loss(query - shift)) / (2 * eps)
        assert gradient[b, d].item() == pytest.approx(numeric.item(), abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_extremes_stay_finite(dtype: torch.dtype) -> None:
    query = _unit(3, 8, seed=0)
    queue = torch.cat([query, -query])
    for key in (query, -query):
        loss = info_nce(query.to(dtype), key.to(dtype), queue.to(dtype), temperature=0.01)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()


def test_no_sample_depends_on_another() -> None:
    query, key, queue = _unit(5, 8, seed=0), _unit(5, 8, seed=1), _unit(9, 8, seed=2)
    together = info_nce(query, key, queue, temperature=0.2)
    for b in range(5):
        alone = info_nce(query[b : b + 1], key[b : b + 1], queue, temperature=0.2)
        torch.testing.assert_close(alone, together[b : b + 1])


def test_errors() -> None:
    z = _unit(2, 4, seed=0)
    with pytest.raises(ValueError, match="`temperature` must be > 0, got 0"):
        info_nce(z, z, z, temperature=0)
    with pytest.raises(ValueError, match=r"must be \(B, D\) and `queue` \(N, D\)"):
        info_nce_logits(z, z[:1], z, temperature=0.2)
    with pytest.raises(ValueError, match=r"must be \(B, D\) and `queue` \(N, D\)"):
        info_nce_logits(z, z, z[:, :2], temperature=0.2)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("dim", "count"), [(2, 2), (5, 9)])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.1, 0.05), (1.0, 0.3)])
@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("centred", [False, True])
def test_distillation_equals_the_loop(
    batch: int,
    dim: int,
    count: int,
    views: int,
    tau_s: float,
    tau_t: float,
    top_k: int,
    centred: bool,
) -> None:
    s, v, texts = (
        _unit(batch, dim, seed=0),
        _unit(batch, views, dim, seed=1),
        _unit(count, dim, seed=2),
    )
    hubs = _unit(count, seed=3) if centred else None
    loss = text_bank_distillation(
        s, v, texts, student_temperature=tau_s, teacher_temperature=tau_t, hubs=hubs, top_k=top_k
    )
    listed = hubs.tolist() if hubs is not None else None
    expected = text_bank_distillation_loops(s, v, texts, tau_s, tau_t, listed, top_k)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_distillation_limits() -> None:
    s, texts = _unit(4, 6, seed=0), _unit(7, 6, seed=1)
    taus = {"student_temperature": 0.1, "teacher_temperature": 0.1}
    assert text_bank_distillation(s, s, texts, **taus).abs().max() < 1e-12
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    v = _unit(4, 6, seed=2)
    loss = text_bank_distillation(s, v, texts, **taus)
    torch.testing.assert_close(text_bank_distillation(s, v, texts[order], **taus), loss)
    for i in range(4):  # of each sample alone
        alone = text_bank_distillation(s[i : i + 1], v[i : i + 1], texts, **taus)
        torch.testing.assert_close(alone, loss[i : i + 1])
    best = teacher_probabilities(v, texts, temperature=0.1, top_k=1)
    torch.testing.assert_close(best, F.one_hot((v @ texts.T).argmax(1), 7).double())


def test_hub_centring_removes_what_suits_every_image() -> None:
    shared = 2 * _unit(6, seed=1)  # all alike in one direction
    v = F.normalize(_unit(50, 6, seed=0) + shared, dim=1)
    texts = torch.cat([_unit(1, 6, seed=2), _unit(6, seed=1)[None]])  # the second suits them all
    plain = teacher_probabilities(v, texts, temperature=0.1)
    centred = teacher_probabilities(v, texts, temperature=0.1, hubs=v.mean(0) @ texts.T)
    assert plain[:, 1].mean() > 0.95
    assert 0.3 < centred[:, 1].mean() < 0.7
    moved = teacher_probabilities(v, texts, temperature=0.1, hubs=torch.full((2,), 0.7))
    torch.testing.assert_close(moved, plain)  # a common offset says nothing


def test_distillation_gradient() -> None:
    s, v, texts = _unit(3, 4, seed=0).requires_grad_(), _unit(3, 4, seed=1), _unit(5, 4, seed=2)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(s: Tensor, tau: Tensor) -> Tensor:
        return text_bank_distillation(
            s, v, texts, student_temperature=tau, teacher_temperature=0.2, top_k=3
        )

    assert torch.autograd.gradcheck(loss, (s, tau))
    assert torch.autograd.grad(loss(s, tau).sum(), tau)[0].abs() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_distillation_is_finite_at_the_extremes(dtype: torch.dtype) -> None:
    texts = torch.cat([_unit(3, 8, seed=0), -_unit(3, 8, seed=0)]).to(dtype)
    s = texts.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        loss = text_bank_distillation(
            s, -texts, texts, student_temperature=0.01, teacher_temperature=0.001
        )
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert loss.min() > 50  # cosines 1 against -1 at tau_S 0.01
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_similarities_stay_exact_under_autocast() -> None:
    v, texts = _unit(8, 64, seed=0).float(), _unit(20, 64, seed=1).float()
    exact = teacher_probabilities(v, texts, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(teacher_probabilities(v, texts, temperature=0.01), exact)


def test_distillation_errors() -> None:
    s, texts = _unit(2, 4, seed=0), _unit(5, 4, seed=1)
    with pytest.raises(ValueError, match="`student` must be"):
        student_log_probabilities(s[0], texts, temperature=0.1)
    with pytest.raises(ValueError, match="`teacher` must be"):
        teacher_probabilities(s[:, :3], texts, temperature=0.1)
    with pytest.raises(ValueError, match="`teacher_temperature` must be > 0"):
        teacher_probabilities(s, texts, temperature=0)
    with pytest.raises(ValueError, match=r"`top_k` must be in \[1, 5\]"):
        teacher_probabilities(s, texts, temperature=0.1, top_k=6)


def test_info_nce_is_that_of_float32_under_autocast() -> None:
    """At a low temperature a cosine near 1 in bf16, off by 0.002, would be off by 0.07 nats."""
    query, queue = _unit(32, 64, seed=0).float(), _unit(200, 64, seed=1).float()
    key = torch.nn.functional.normalize(query + 0.05 * _unit(32, 64, seed=2).float(), dim=1)
    exact = info_nce(query, key, queue, temperature=0.03)
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=half):
            loss = info_nce(query, key, queue, temperature=0.03)
        torch.testing.assert_close(loss, exact, atol=1e-3, rtol=0)
