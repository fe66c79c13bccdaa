"""State of a module that is saved with its weights but is none of them: no callback may average it, nor DDP send it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["keep_in_state_dict"]


def keep_in_state_dict(module: nn.Module, *names: str) -> None:
    """Have ``state_dict`` of a module hold attributes that are no buffers, and loading restore them, in any shape.

    ``EMAWeightAveraging`` averages buffers as it does weights; an average of keys is no key.

    Args:
        module: The module; ``module.to`` does not move the attributes.
        names: Names of attributes that are integers or tensors.
    """
    module.register_state_dict_post_hook(partial(_save, names))
    module.register_load_state_dict_pre_hook(partial(_load, names))


def _save(
    names: tuple[str, ...], module: nn.Module, state: dict[str, Any], prefix: str, _: Any
) -> None:
    for name in names:
        state[prefix + name] = torch.as_tensor(getattr(module, name))


def _load(
    names: tuple[str, ...], module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any
) -> None:
    missing: list[str] = rest[2]
    for name in names:
        saved, old = state.pop(prefix + name, None), getattr(module, name)
        if saved is None:
            missing.append(prefix + name)
        else:
            new = saved.to(old, copy=True) if isinstance(old, Tensor) else int(saved)
            setattr(module, name, new)
