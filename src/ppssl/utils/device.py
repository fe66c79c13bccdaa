"""Device selection for inference."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from ppssl.utils.errors import UserError

__all__ = ["on_device", "placement", "resolve_device"]


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return device and type of a model's input: those of its first floating-point weight, or CPU and float32."""
    weights = chain(model.parameters(), model.buffers())
    first = next((w for w in weights if w.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``"auto"``: a GPU if there is one, else the CPU.

    Raises:
        UserError: The device does not exist or cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:  # AssertionError: torch was built without it
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(
            f"`device` {name} cannot be used ({reason}): choose `cpu` or `auto`."
        ) from error
    return device


@contextmanager
def on_device(model: nn.Module, name: str) -> Iterator[torch.device]:
    """Move a model to a device (:func:`resolve_device`) and back afterwards, also after an error."""
    original_device, _ = placement(model)
    device = resolve_device(name)
    model.to(device)
    try:
        yield device
    finally:
        model.to(original_device)
