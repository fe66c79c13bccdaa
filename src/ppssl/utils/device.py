"""Where an encoder runs while it is looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ppssl.utils.errors import UserError

__all__ = ["on_device", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``"auto"``: a GPU if there is one, else the CPU.

    Raises:
        UserError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch built without it raises the former
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(
            f"`device` {name} cannot be used ({reason}): give `cpu`, or none."
        ) from error
    return device


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
