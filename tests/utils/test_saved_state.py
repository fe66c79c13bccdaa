import copy

import pytest
import torch
from torch import nn

from ppssl.utils.saved_state import keep_in_state_dict


class Kept(nn.Module):
    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows = torch.arange(float(size))
        self.count = size
        keep_in_state_dict(self, "rows", "count")


def test_it_is_saved_and_is_no_buffer() -> None:
    model = nn.Sequential(Kept(), Kept(3))
    assert not list(model.buffers())
    assert model.state_dict()["1.rows"].tolist() == [0, 1, 2]
    assert int(model.state_dict()["1.count"]) == 3


def test_it_is_restored_in_its_shape_as_a_copy() -> None:
    model, other = nn.Sequential(Kept(3)), nn.Sequential(Kept(2))
    for loaded in (other, copy.deepcopy(other)):
        loaded.load_state_dict(model.state_dict())
        assert loaded[0].rows.equal(model[0].rows)
        assert loaded[0].count == 3
        assert type(loaded[0].count) is int
        loaded[0].rows += 1
    assert model[0].rows.tolist() == [0, 1, 2]


def test_state_that_is_missing_is_an_error() -> None:
    model = nn.Sequential(Kept())
    state = {key: value for key, value in model.state_dict().items() if key != "0.rows"}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"0.rows\""):
        model.load_state_dict(state)
    model.load_state_dict(state, strict=False)
