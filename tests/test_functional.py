import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch import Tensor

from ppssl.functional import info_nce, info_nce_logits
from reference.contrastive import info_nce_loops


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
    assert (
        info_nce(query, query, query[:0], temperature=0.2).abs().max() == 0
    )  # nothing to confuse it with
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
