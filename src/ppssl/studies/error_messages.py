"""Messages and exit codes of errors: one line with the problem, the value and the remedy."""

import os
import re
from argparse import ArgumentError as ArgparseError
from collections.abc import Iterator

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ppssl.checkpointing.atomic import is_full
from ppssl.studies.parser_messages import one_line, parser_message
from ppssl.utils.errors import ArgumentError, UserError

__all__ = ["describe_error"]

_LOST_PROCESS = re.compile(
    r"^(?!DataLoader).*(timed?[ -]?out|connection|pair closure|broken pipe|no route to host|network is unreachable|"
    r"host is down|failed to recv|failed to send|gloo/transport/)",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of gloo, NCCL and torch's store if another process, its machine or the network is lost: all that is about
time or a connection, for the same loss gives many of them, as it hits a send, a receive or the start of one."""

_KILLED_WORKER = re.compile(
    r"DataLoader worker .*(killed by signal: (Killed|Bus error)|exited unexpectedly)", re.DOTALL
)
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Insufficient memory|std::bad_alloc|Failed to allocate"
)
_TOO_SMALL_BATCH = re.compile(r"Expected more than 1 value per channel when training")
_LATE_VALIDATION = re.compile(r"`val_check_interval` \(\d+\) must be less than or equal")
_SEED = re.compile(r"(-?\d+) is not in bounds, numpy accepts from (\d+) to (\d+)")
_UNKNOWN_METRIC = re.compile(r"conditioned on metric|but could not find the monitored key")
_OTHER_OPTIMIZER = re.compile(r"loaded state dict (contains|has) a")


def describe_error(error: BaseException) -> tuple[int, str | None]:
    """Exit code and message of an error; ``None`` as message for an internal error, whose traceback is shown."""
    for cause in _causes(error):
        described = _describe(cause)
        if described is not None:
            return described
    if isinstance(error, ArgparseError):
        return 2, parser_message(str(error))
    if isinstance(error, ValueError) and "Does not validate" in str(error):
        return 2, parser_message(str(error))
    return 1, None


def _describe(error: BaseException) -> tuple[int, str] | None:
    """Exit code and message of an error whose cause is known; else ``None``."""
    text = one_line(str(error))
    if isinstance(error, UserError | ArgumentError | MisconfigurationException):
        return 2, text
    if is_full(error):
        return 2, f"No space left on the disk ({text}): free some space, then use `--resume auto`."
    if isinstance(error, torch.OutOfMemoryError):
        return 2, (
            f"Out of memory on the GPU ({text.partition('. ')[0]}): lower `data.batch_size`, or set "
            "`trainer.precision` to `bf16-mixed`."
        )
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return 2, (
            f"Out of memory ({text[:150].partition('. ')[0] or type(error).__name__}): lower `data.batch_size`, "
            "`data.image_size`, `data.num_workers` or the size of the model."
        )
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        name = os.fspath(error.filename)
        shown = str(name) if len(name) <= 200 else f"{name[:60]!s}...{name[-60:]!s}"
        return 2, f"The system refused a file: {error.strerror}: {shown}."
    return _describe_runtime_error(text) if isinstance(error, RuntimeError | ValueError) else None


def _describe_runtime_error(text: str) -> tuple[int, str] | None:
    """Exit code and message of an error of torch or Lightning, which is known by its text only."""
    if "killed by signal: Terminated" in text:
        return 143, (
            "Terminated (a worker first); `ppssl fit ... --resume auto` continues from the last checkpoint."
        )
    if _LOST_PROCESS.search(text):
        return 1, (
            f"Lost another process: {text[:200].rstrip('.')}. Restart all processes with the same command and "
            "`--resume auto`, which continues from the last checkpoint."
        )
    if _KILLED_WORKER.search(text):
        return 1, (
            "A worker of the data loader was killed, as the system does when memory or shared memory is used up: "
            "lower `data.num_workers`, or give a container more of it (`--shm-size`); then use `--resume auto`."
        )
    if _TOO_SMALL_BATCH.search(text):
        return 2, (
            "Batch norm needs more than one value per channel, and a batch of one image has one: set `data.batch_size` "
            "to 2 or more, or `model.batch_norm` to `frozen`."
        )
    if _LATE_VALIDATION.search(text):
        return 2, text.partition(". ")[0].replace("`val_check", "`trainer.val_check") + "."
    if seed := _SEED.search(text):
        return 2, f"A seed must be from {seed[2]} to {seed[3]}, got {seed[1]}."
    if _UNKNOWN_METRIC.search(text):
        return 2, f"A monitored value does not exist: {text}"
    if _OTHER_OPTIMIZER.search(text):
        return 2, (
            f"The optimizer of the checkpoint is another one ({text}): resume a run with the settings that it began "
            "with, or start a new one from its encoder, `--model.pretrained path/to/last.ckpt`."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
