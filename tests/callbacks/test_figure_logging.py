"""What draws while training: when, for which plugins, and of which images."""

from typing import Any

import pytest
from torch import nn

from ppssl import AIS, IADM
from ppssl.losses.ais.callback import AISCallback
from ppssl.losses.iadm.callback import IADMCallback


@pytest.mark.parametrize("callback", [AISCallback, IADMCallback])
def test_when_a_figure_is_drawn(callback: Any) -> None:
    drawn = callback(every_n_epochs=3)
    assert [epoch for epoch in range(7) if drawn.should_draw(epoch)] == [2, 5]
    assert not any(callback(every_n_epochs=0).should_draw(epoch) for epoch in range(7))


@pytest.mark.parametrize("callback", [AISCallback, IADMCallback])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"every_n_epochs": -1}, "`every_n_epochs` must be >= 0, got -1"),
        ({"num_images": 0}, "`num_images` must be >= 1, got 0"),
    ],
)
def test_arguments(callback: Any, kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        callback(**kwargs)


def test_each_watches_the_plugins_of_its_own_type() -> None:
    module = nn.Module()
    module.plugins = nn.ModuleDict({"a": AIS("x"), "maps": IADM(), "b": AIS("y")})
    assert AISCallback().plugins(module) == {"a": module.plugins["a"], "b": module.plugins["b"]}
    assert IADMCallback().plugins(module) == {"maps": module.plugins["maps"]}
