"""What only draws or measures does not end a training: an error in it is one warning."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

__all__ = ["diagnostic"]


@contextmanager
def diagnostic(
    callback: Callback, trainer: Trainer, what: str, *, collective: bool = False
) -> Iterator[None]:
    """Context in which the first error is a warning, the rest of the block is left out, and the training goes on.

    Some errors are raised all the same: those outside of ``fit``, where the measurement is what was asked for; lack of
    memory and errors of a GPU, after which nothing else works; and in a run of several processes those in what all of
    them do together, for which the others would wait.

    Args:
        callback: The callback; it remembers what it has warned of.
        trainer: Its trainer.
        what: What the block draws or measures, for the message.
        collective: Whether all processes take part, as in whatever is logged.
    """
    try:
        yield
    except Exception as error:
        is_awaited = collective and trainer.world_size > 1
        if trainer.state.fn != TrainerFn.FITTING or is_awaited or _is_fatal(error):
            raise
        known = vars(callback).setdefault("_diagnostics_left_out", set())
        if what not in known:
            known.add(what)
            warnings.warn(_message(callback, what, error), stacklevel=3)


def _is_fatal(error: Exception) -> bool:
    """Whether an error is of the memory or the device."""
    kinds = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _message(callback: Callback, what: str, error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())[:200]
    return (
        f"{type(callback).__name__} leaves out {what}, and the training goes on: {type(error).__name__}: {reason} "
        f"({Path(last.filename).name}, line {last.lineno})."
    )
