import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppssl.encoder import Encoder
from ppssl.functional import info_nce
from ppssl.losses.contrastive import MoCo
from ppssl.losses.contrastive.momentum import automatic_momentum


def _encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("resnet_small", kwargs={"width": 4})


def _built(num_images: int = 40, **kwargs: Any) -> tuple[Encoder, MoCo]:
    encoder = _encoder()
    moco = MoCo(dim=8, **kwargs)
    moco.build(encoder, num_images=num_images)
    return encoder, moco.train()


def _batch(index: list[int], seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(len(index), 3, 16, 16, generator=generator) for _ in range(2)]
    return {"views": views, "index": torch.tensor(index)}


class _NoNorm(nn.Module):
    """An encoder without batch norm, with the interface that MoCo needs."""

    uses_batch_statistics = False

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 8)
        self.info = _encoder().info.__class__(dim=8, channels=8, mean=(0.0,), std=(1.0,))

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))

    def features(self, images: Tensor) -> Any:
        from ppssl.encoder import Features

        p = self(images)
        return Features(p[:, :, None, None], p)


def test_loss_is_info_nce_against_the_queue_before_the_batch() -> None:
    encoder, moco = _built()
    moco.prefill_batch(_batch(list(range(20)), seed=5), seed=1)
    queue, index = moco.queue.keys.clone(), moco.queue.index.clone()
    batch = _batch([3, 30, 31, 7])  # images 3 and 7 have a key in the queue
    result = moco(encoder, batch, seed=2)
    mask = batch["index"][:, None] == index[None]
    assert mask.sum() == 2
    torch.testing.assert_close(
        result.loss, info_nce(result.z, result.key, queue, temperature=0.2, mask=mask)
    )
    torch.testing.assert_close(moco.queue.keys, queue)  # the loss came first
    moco.after_backward(result)
    newest = moco.queue.index == 30
    torch.testing.assert_close(moco.queue.keys[newest], result.key[1:2])


def test_own_and_current_keys_are_never_negatives() -> None:
    encoder, moco = _built(num_images=12)
    for epoch in range(3):
        for start in range(0, 12, 4):
            index = list(range(start, start + 4))
            batch = _batch(index, seed=10 * epoch + start)
            keys, mask = moco.queue.negatives(batch["index"])
            result = moco(encoder, batch, seed=0)
            distance = torch.cdist(result.key, keys)
            assert not len(keys) or distance.min() > 0  # no key of this batch is there yet
            own = batch["index"][:, None] == moco.queue.index[None, : len(keys)]
            torch.testing.assert_close(mask, own)
            moco.after_backward(result)


def test_query_and_key_share_no_tensor() -> None:
    encoder, moco = _built()
    query = {t.data_ptr() for m in (encoder, moco.head) for t in [*m.parameters(), *m.buffers()]}
    key = {
        t.data_ptr()
        for m in (moco.key_encoder, moco.key_head)
        for t in [*m.parameters(), *m.buffers()]
    }
    assert not query & key
    assert not any(
        p.requires_grad for m in (moco.key_encoder, moco.key_head) for p in m.parameters()
    )
    for ours, theirs in zip(encoder.parameters(), moco.key_encoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradient_reaches_the_query_side_only() -> None:
    encoder, moco = _built()
    moco.prefill_batch(_batch(list(range(20)), seed=5), seed=1)
    moco(encoder, _batch([30, 31, 32, 33]), seed=0).loss.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moco.head.parameters())
    assert all(p.grad is None for p in moco.key_encoder.parameters())
    assert sum(float(p.grad.abs().sum()) for p in encoder.parameters()) > 0


def test_momentum_update() -> None:
    encoder, moco = _built(momentum=0.9)
    before = [p.clone() for p in moco.key_encoder.parameters()]
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1.0)
    moco.after_step(encoder, progress=0.5, total_steps=100)
    for old, key, query in zip(
        before, moco.key_encoder.parameters(), encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(key, 0.9 * old + 0.1 * query)


def test_automatic_momentum() -> None:
    assert automatic_momentum(100_000) == 0.999
    assert automatic_momentum(5_000) == 0.999
    assert automatic_momentum(2_500) == pytest.approx(0.998)
    assert automatic_momentum(500) == pytest.approx(0.99)
    assert automatic_momentum(10) == automatic_momentum(0) == 0.95
    steps = [automatic_momentum(n) for n in range(1, 6000, 7)]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("batch", "groups"), [(8, 1), (8, 2), (9, 4), (10, 4), (2, "auto"), (64, "auto")]
)
def test_keys_are_normalised_in_shuffled_groups(batch: int, groups: Any) -> None:
    """Against a literal version: the same permutation, each group through a copy of the key encoder."""
    _, moco = _built(key_bn_groups=groups)
    images = _batch(list(range(batch)))["views"][1]
    seen: list[Tensor] = []
    hook = moco.key_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    reference = copy.deepcopy((moco.key_encoder, moco.key_head))
    keys = moco.keys(images, torch.arange(len(images)), seed=7)[0]
    hook.remove()
    assert sum(len(group) for group in seen) == batch
    assert len(seen) == ({2: 1, 64: 2}[batch] if groups == "auto" else groups)
    reference[0]._forward_pre_hooks.clear()
    for group in seen:
        expected = F.normalize(reference[1](reference[0](group)), dim=1)
        for image, key in zip(group, expected, strict=True):
            position = next(i for i in range(batch) if torch.equal(images[i], image))
            torch.testing.assert_close(keys[position], key)


def test_every_group_has_two_images_or_more() -> None:
    """Batch norm takes no statistics of one image."""
    _, moco = _built()
    sizes: list[int] = []
    moco.key_encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    cases = [("auto", 1057), ("auto", 1090), *((g, b) for g in (3, 4) for b in range(2, 14))]
    for moco.key_bn_groups, batch in cases:
        sizes.clear()
        moco.keys(torch.randn(batch, 3, 8, 8), torch.arange(batch), seed=0)
        assert min(sizes) >= 2, (moco.key_bn_groups, batch)
        assert sum(sizes) == batch


def test_groups_are_not_the_queries_order() -> None:
    _, moco = _built(key_bn_groups=2)
    seen: list[Tensor] = []
    moco.key_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    images = _batch(list(range(16)))["views"][1]
    moco.keys(images, torch.arange(len(images)), seed=0)[0]
    moco.keys(images, torch.arange(len(images)), seed=1)[0]
    assert not torch.equal(torch.cat(seen[:2]), images)
    assert not torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))


def test_without_batch_norm_keys_are_just_projected() -> None:
    torch.manual_seed(0)
    encoder = _NoNorm()
    moco = MoCo(dim=4)
    moco.build(encoder, num_images=10)  # type: ignore[arg-type]
    images = _batch(list(range(6)))["views"][1]
    torch.testing.assert_close(
        moco.keys(images, torch.arange(len(images)), seed=0)[0],
        F.normalize(moco.key_head(encoder(images)), dim=1),
    )


@pytest.mark.parametrize(("num_images", "size"), [(1, 1), (41, 20), (10**6, 65_536)])
def test_automatic_queue_size(num_images: int, size: int) -> None:
    _, moco = _built(num_images=num_images)
    assert len(moco.queue.keys) == size


def test_prefill() -> None:
    _, moco = _built(num_images=12)
    batches = 0
    while moco.needs_prefill():
        moco.prefill_batch(_batch([4 * batches + i for i in range(4)]), seed=0)
        batches += 1
    assert batches == 2
    assert set(moco.queue.index.tolist()) == {2, 3, 4, 5, 6, 7}
    _, random = _built(prefill="random")
    assert not random.needs_prefill()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be > 0, got 0"),
        ({"momentum": 1.5}, r"`momentum` must be in \[0, 1\], got 1.5"),
        ({"queue_size": 0}, "`queue_size` must be >= 1, got 0"),
        ({"key_bn_groups": 0}, "`key_bn_groups` must be >= 1, got 0"),
        ({"prefill": "zeros"}, "`prefill` must be one of keys, random, got 'zeros'"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoCo(**kwargs)
