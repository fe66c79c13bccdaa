"""Where a model runs while it is looked at. The meta device stands for one that is not the CPU."""

import pytest
import torch
from torch import nn

from ppssl.utils.device import on_device, resolve_device
from ppssl.utils.errors import UserError


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "graphics"])
def test_a_device_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(
        UserError, match=f"`device` {name} cannot be used .*: choose `cpu` or `auto`"
    ):
        resolve_device(name)


def test_a_model_goes_back_to_where_it_was() -> None:
    model = nn.Linear(2, 2, device="meta")
    with on_device(model, "meta") as device:
        assert model.weight.device == device == torch.device("meta")
    assert model.weight.device == torch.device("meta")
    moved: list[str] = []

    class Noted(nn.Linear):
        def to(self, device: torch.device) -> "Noted":  # type: ignore[override]
            moved.append(torch.device(device).type)
            return self

    with pytest.raises(KeyboardInterrupt), on_device(Noted(2, 2), "meta"):
        raise KeyboardInterrupt
    assert moved == ["meta", "cpu"]
