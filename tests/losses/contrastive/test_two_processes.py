"""Part of the contract of contrastive objectives: two processes have the loss and gradient of one."""

from typing import Any

import pytest
import torch

from bases import BASES
from parallel_bases import process, processes


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same batch in one process and shared by two."""
    out = tmp_path_factory.mktemp("processes")
    process(0, 1, str(out))
    processes(2, str(out))
    one, two = (torch.load(out / f"{n}.pt", weights_only=True) for n in (1, 2))
    return one, two


@pytest.mark.parametrize("name", BASES)
def test_two_processes_are_one(name: str, one_and_two: tuple[dict[str, Any], ...]) -> None:
    one, two = (run[name] for run in one_and_two)
    assert one["gradients"]
    assert one.keys() == two.keys()
    for part, value in one.items():
        values = value if isinstance(value, dict) else {part: value}
        others = two[part] if isinstance(value, dict) else {part: two[part]}
        assert values.keys() == others.keys()
        for key in values:
            torch.testing.assert_close(others[key], values[key], atol=1e-5, rtol=1e-4, msg=key)
