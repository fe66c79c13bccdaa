"""Compilation of functions by ``torch.compile``."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from ppssl.utils.errors import UserError

__all__ = ["compiled_version", "prepare_compiler"]

BACKEND = "inductor"

CPP_COMPILERS = ("g++", "clang++", "c++", "cl")


def compiled_version(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled version of a function, one for each function and process; it is compiled when it is first called."""
    return _compiled(function, BACKEND)


@functools.cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    # batches of training have one size or two, and code for any size is slower
    return torch.compile(function, backend=backend, dynamic=False)


def prepare_compiler(option: str, device: torch.device) -> None:
    """Check that there is what ``torch.compile`` needs, and drop what earlier runs in this process compiled.

    A CPU needs a C++ compiler, a CUDA GPU the package Triton. torch keeps eight versions of a function, each for
    tensors of certain sizes and types; what does not fit any more runs uncompiled.

    Args:
        option: Name of the option that asks for it, for the message.
        device: Device that is computed on.

    Raises:
        UserError: It is not there.
    """
    missing = None
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "the package `triton`"
    if device.type == "cpu" and not any(map(shutil.which, _cpp_compilers())):
        missing = "a C++ compiler (`g++`)"
    if missing is not None:
        raise UserError(
            f"`{option}` needs {missing}, which is not there: install it, or set `{option}: false`."
        )
    torch.compiler.reset()


def _cpp_compilers() -> tuple[str, ...]:
    chosen = os.environ.get("CXX")
    return CPP_COMPILERS if chosen is None else (chosen,)
