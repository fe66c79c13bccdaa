"""Counter-based random numbers: a function of seed, purpose and counters, never of earlier draws.

There is no random state to save: any sample, step or epoch can be reproduced from its numbers, the number of workers
has no influence, and a run that is resumed in mid-epoch is exact. The generator is Philox (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011).
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

__all__ = ["generator", "initial_weights", "resolve_seed", "seed_step", "torch_seed"]

_MASK = 2**64 - 1


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Create the random generator of a seed, a purpose and up to three counters.

    Args:
        seed: The run's seed; any integer.
        purpose: The purpose of the numbers, such as ``"order"`` or ``"view"``; different purposes are independent.
        counters: Up to three integers, such as epoch, image index and view.

    Returns:
        A new generator; equal arguments give equal numbers on every machine.
    """
    if len(counters) > 3:
        raise ValueError(f"`counters` must be at most three integers, got {len(counters)}.")
    words = [0, *(int(c) & _MASK for c in counters)]
    key = np.array([int(seed) & _MASK, zlib.crc32(purpose.encode())], dtype=np.uint64)
    counter = np.array(words + [0] * (4 - len(words)), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return a seed in [0, 2**63) for ``torch.Generator.manual_seed``; arguments as for :func:`generator`."""
    return int(generator(seed, purpose, *counters).integers(0, 2**63, dtype=np.int64))


@contextmanager
def initial_weights(seed: int | None, part: str) -> Iterator[None]:
    """Seed torch's global generators for the initial weights of a part of a model, and restore them afterwards.

    Args:
        seed: Seed of the weights; ``None``: do nothing.
        part: Name of the part; the weights of different parts are independent.
    """
    with isolate_rng() if seed is not None else nullcontext():
        if seed is not None:
            # This text is hashed into the seed: another one would change the initial weights of every run.
            torch.manual_seed(torch_seed(seed, f"first weights of {part}"))
        yield


def seed_step(seed: int, step: int, micro_step: int, rank: int) -> None:
    """Seed torch's global generators for one training step (dropout, drop path), so that it can be reproduced."""
    torch.manual_seed(torch_seed(seed, "step", step, micro_step, rank))


def resolve_seed(seed: int | None) -> int:
    """Return ``seed``; if it is ``None``, the seed of ``lightning.seed_everything``, or 0."""
    if seed is not None:
        return int(seed)
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
