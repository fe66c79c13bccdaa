"""What the processes of a resumed run must agree on; all else is in tests/integration/test_resume.py."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ppssl import UserError
from ppssl.checkpointing.resume import ResumeState


def _trainer(own: int, others: int) -> Any:
    """Of two processes, as far as is asked: what each of them is at."""

    def all_gather(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, torch.tensor(others)])

    strategy = SimpleNamespace(root_device=torch.device("cpu"), all_gather=all_gather)
    return SimpleNamespace(global_step=own, strategy=strategy)


def test_processes_that_go_on_from_different_steps_are_told() -> None:
    callback: Any = ResumeState()
    callback.on_train_start(_trainer(7, 7), None)
    with pytest.raises(UserError, match=r"different steps: \[0, 7\].*a folder that all machines"):
        callback.on_train_start(_trainer(0, 7), None)
