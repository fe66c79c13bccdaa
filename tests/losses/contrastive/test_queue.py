import pytest
import torch
from torch import Tensor

from ppssl.losses.contrastive import KeyQueue


def _rows(numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Keys that carry their number, and the index of their image."""
    index = torch.tensor(numbers)
    return index.float()[:, None].expand(-1, 3), index + 100


@pytest.mark.parametrize("size", [1, 3, 5, 8])
@pytest.mark.parametrize(
    "batches", [[1, 1, 1, 1], [3, 3, 3], [2, 5, 1, 4], [20], [8, 8], [7, 20, 2]]
)
def test_holds_the_last_keys_at_any_batch_size(size: int, batches: list[int]) -> None:
    queue, pushed = KeyQueue(size, 3), 0
    for count in batches:
        queue.enqueue(*_rows(list(range(pushed, pushed + count))))
        pushed += count
        expected = set(range(max(0, pushed - size), pushed))
        keys, _ = queue.negatives(torch.tensor([-5]))
        assert {int(k[0]) for k in keys} == expected
        assert len(keys) == min(pushed, size)
        assert {int(i) - 100 for i in queue.index[: len(keys)]} == expected
        torch.testing.assert_close(
            queue.keys[: len(keys), 0] + 100, queue.index[: len(keys)].float()
        )


def test_oldest_goes_first() -> None:
    queue = KeyQueue(4, 3)
    queue.enqueue(*_rows([0, 1, 2, 3]))
    queue.enqueue(*_rows([4]))
    assert sorted(queue.keys[:, 0].tolist()) == [1, 2, 3, 4]


def test_masks_entries_of_the_own_image() -> None:
    queue = KeyQueue(5, 3)
    queue.enqueue(*_rows([0, 1, 2]))
    _, mask = queue.negatives(torch.tensor([101, 7]))
    assert mask.tolist() == [[False, True, False], [False, False, False]]


def test_enqueuing_before_the_backward_pass_is_an_error_and_no_wrong_gradient() -> None:
    queue = KeyQueue(2, 3)
    queue.enqueue(*_rows([0, 1]))
    keys, _ = queue.negatives(torch.tensor([0]))
    query = torch.ones(1, 3, requires_grad=True)
    loss = (query @ keys.T).sum()
    queue.enqueue(*_rows([2, 3]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_survives_save_and_load_with_its_size() -> None:
    queue = KeyQueue(5, 3)
    queue.enqueue(*_rows(list(range(7))))
    fresh = KeyQueue(1, 3)
    fresh.load_state_dict(queue.state_dict())
    for q in (queue, fresh):
        q.enqueue(*_rows([50, 51]))
    for name in ("keys", "index", "position", "filled"):
        torch.testing.assert_close(getattr(queue, name), getattr(fresh, name))


def test_follows_the_device_of_the_images() -> None:
    """It is no buffer, which ``module.to`` would move."""
    index = torch.arange(2, device="meta")
    queue = KeyQueue(5, 3)
    assert {part.device.type for part in queue.negatives(index)} == {"meta"}
    queue = KeyQueue(5, 3)
    queue.enqueue(torch.zeros(2, 3, device="meta"), index)
    assert (queue.keys.device.type, queue.index.device.type) == ("meta", "meta")


def test_random_keys_are_unit_and_of_no_image() -> None:
    queue = KeyQueue(6, 4)
    assert not queue.is_full()
    queue.fill_at_random(torch.Generator().manual_seed(0))
    assert queue.is_full()
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(6))
    assert (queue.index == -1).all()
