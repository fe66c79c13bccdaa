"""Where an encoder runs while it is looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["on_device", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``"auto"``: a GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def on_device(model: nn.Module, name: str) -> Iterator[torch.device]:
    """The model on a device (:func:`resolve_device`); afterwards, and after an error, where it was."""
    was_on = next(model.parameters()).device
    device = resolve_device(name)
    model.to(device)
    try:
        yield device
    finally:
        model.to(was_on)
