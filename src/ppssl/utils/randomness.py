"""Counter-based randomness: every random number is a function of what it is for, never of what was drawn before.

Nothing here has a state, so no state is stored: a sample, a step or an epoch is replayed from its
numbers alone, the number of workers does not matter, and a run resumed in mid-epoch is exact.
The generator is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

__all__ = ["first_weights", "generator", "resolve_seed", "seed_step", "torch_seed"]

_MASK = 2**64 - 1


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The random numbers for one purpose at one place.

    Args:
        seed: The run's seed; any integer.
        purpose: What the numbers are for (``"order"``, ``"view"``): separate purposes never share numbers.
        counters: Up to three integers that name the place, such as epoch, image index and view.

    Returns:
        A fresh generator: equal arguments give equal numbers, on every machine.
    """
    if len(counters) > 3:
        raise ValueError(f"`counters` must be at most three integers, got {len(counters)}.")
    words = [0, *(int(c) & _MASK for c in counters)]
    key = np.array([seed & _MASK, zlib.crc32(purpose.encode())], dtype=np.uint64)
    counter = np.array(words + [0] * (4 - len(words)), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """A seed in [0, 2**63) for ``torch.Generator.manual_seed``, from the same arguments as :func:`generator`."""
    return int(generator(seed, purpose, *counters).integers(0, 2**63, dtype=np.int64))


@contextmanager
def first_weights(seed: int | None, part: str) -> Iterator[None]:
    """Torch's global generators seeded for the first weights of one part of a model, and afterwards as they were.

    Args:
        seed: Of the weights; ``None``: nothing is seeded.
        part: Separate parts never depend on each other's weights.
    """
    with isolate_rng() if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(torch_seed(seed, f"first weights of {part}"))
        yield


def seed_step(seed: int, step: int, micro_step: int, rank: int) -> None:
    """Seed torch's global generators for one training step (dropout, drop path), so that it can be replayed."""
    torch.manual_seed(torch_seed(seed, "step", step, micro_step, rank))


def resolve_seed(seed: int | None) -> int:
    """``seed`` itself, or where it is ``None`` the one given to ``lightning.seed_everything``, or 0."""
    if seed is not None:
        return seed
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
