"""The allocator of glibc, which by default gives the memory of large tensors back to the system when they are freed."""

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt`` (``malloc.h``)."""


def keep_freed_memory() -> bool:
    """Have this process keep the memory of freed tensors, for the next step to use.

    The system clears every page that it hands out, which takes a third or more of a training step on a CPU. The
    process's memory stays at its peak. Processes that use a GPU gain nothing: its memory is PyTorch's to keep.

    Returns:
        Whether freed memory is kept from now on: not where another library than glibc allocates, nor where the
        environment has settings of its own (``MALLOC_...``, ``GLIBC_TUNABLES``).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not musl, macOS, Windows
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
