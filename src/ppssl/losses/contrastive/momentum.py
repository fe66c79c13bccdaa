"""Momentum update of a key branch: its rate, and the step itself (:ref:`D3 <d3>`)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["automatic_momentum", "rising_momentum", "update_keys"]


def automatic_momentum(total_steps: int) -> float:
    """Momentum for a run of a given number of optimizer steps.

    0.999 from 5,000 steps on, the scale of the paper. In shorter runs the time constant 1 / (1 - m) is a fifth of the
    run, but at least 20 steps. (Synthetic birds, 1,500 steps: the resulting 0.997 learned the classes with a seed with
    which 0.99 did not; experiments/RESULTS.md.)
    """
    return 1 - min(0.05, max(0.001, 5 / max(total_steps, 1)))


def rising_momentum(start: float, progress: float) -> float:
    """Momentum that rises from ``start`` to 1 along half a cosine (BYOL and MoCo v3).

    Args:
        start: Momentum in the first step, in [0, 1].
        progress: Finished fraction of the training, in [0, 1].
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def update_keys(pairs: Iterable[tuple[nn.Module, nn.Module]], momentum: float) -> None:
    """Move the parameters of key modules towards those of their query modules: ``m * key + (1 - m) * query``.

    Args:
        pairs: Key module and query module of the same structure. Buffers are left alone: the statistics of batch norm
            are those of the key module's own batches.
        momentum: m, in [0, 1].
    """
    keys: list[Tensor] = []
    queries: list[Tensor] = []
    for key_module, module in pairs:
        keys += key_module.parameters()
        queries += module.parameters()
    if len(keys) != len(queries):
        raise ValueError(f"The key modules have {len(keys)} parameters, the others {len(queries)}.")
    torch._foreach_lerp_(keys, queries, 1 - momentum)
