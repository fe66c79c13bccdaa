"""Resuming in several processes; all else is in tests/integration/test_resume.py."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ppssl import UserError
from ppssl.checkpointing.resume import ResumeState


def _trainer(step: int, other_step: int) -> Any:
    """The Trainer of one of two processes at their global steps, as far as it is needed here."""

    def all_gather(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, torch.tensor(other_step)])

    strategy = SimpleNamespace(root_device=torch.device("cpu"), all_gather=all_gather)
    return SimpleNamespace(global_step=step, strategy=strategy)


def test_resuming_from_different_steps_is_refused() -> None:
    callback: Any = ResumeState()
    callback._continue_schedule = lambda *_: None
    callback.on_train_start(_trainer(7, 7), None)
    with pytest.raises(UserError, match=r"different steps: \[0, 7\].*a folder that all machines"):
        callback.on_train_start(_trainer(0, 7), None)
