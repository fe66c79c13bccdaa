import copy

import pytest
import torch
from lightly.utils.scheduler import cosine_schedule
from torch import nn

from ppssl.losses.contrastive.momentum import rising_momentum, update_keys


@pytest.mark.parametrize("start", [0.0, 0.9, 0.996, 1.0])
def test_rising_momentum_is_lightlys_schedule(start: float) -> None:
    steps = 11
    for step in range(steps):
        expected = cosine_schedule(step, steps, start, 1.0)
        assert rising_momentum(start, step / (steps - 1)) == pytest.approx(expected, abs=1e-12)
    assert rising_momentum(start, 0) == start
    assert rising_momentum(start, 1) == 1


def test_keys_move_and_queries_and_buffers_stay() -> None:
    torch.manual_seed(0)
    query = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    key = copy.deepcopy(query)
    with torch.no_grad():
        for p in query.parameters():
            p.add_(torch.randn_like(p))
    query(torch.randn(8, 3))  # moves the running mean of the query
    before, kept = copy.deepcopy(key), copy.deepcopy(query)
    update_keys([(key[0], query[0]), (key[1], query[1])], 0.75)
    for new, old, q in zip(key.parameters(), before.parameters(), query.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * q)
    for new, old in zip(key.buffers(), before.buffers(), strict=True):
        assert torch.equal(new, old)
    for new, old in zip(query.state_dict().values(), kept.state_dict().values(), strict=True):
        assert torch.equal(new, old)


def test_other_numbers_of_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="have 2 parameters, the others 1"):
        update_keys([(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))], 0.5)
