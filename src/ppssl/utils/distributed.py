"""Collectives: tensors of all processes in rank order, and the rank."""

import atexit

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

__all__ = ["gather", "gather_equal", "rank"]


def _is_parallel() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@atexit.register
def _end_gloo() -> None:
    """End gloo's process groups while there is an interpreter.

    A thread of gloo may let go of a tensor after its collective was waited for; without an interpreter that aborts the
    process (https://github.com/pytorch/pytorch/pull/179291), and a launcher calls the finished run failed.
    """
    if _is_parallel() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def rank() -> int:
    """This process's rank; 0 where there is only one."""
    return distributed.get_rank() if _is_parallel() else 0


def gather(tensor: Tensor) -> Tensor:
    """Concatenate ``(B, ...)`` of all processes in rank order; B may differ. No gradient. One process: itself."""
    if not _is_parallel() or distributed.get_world_size() == 1:
        return tensor
    return torch.cat(gather_all_tensors(tensor.contiguous()))


def gather_equal(tensor: Tensor) -> Tensor:
    """Concatenate ``(B, ...)`` of all processes in rank order, with the same B everywhere, in one collective.

    No gradient; neither a barrier nor a read by the host, unlike :func:`gather`. With one process: the tensor itself.
    """
    if not _is_parallel() or distributed.get_world_size() == 1:
        return tensor
    tensor = tensor.detach().contiguous()
    everywhere = tensor.new_empty(distributed.get_world_size() * len(tensor), *tensor.shape[1:])
    distributed.all_gather_into_tensor(everywhere, tensor)
    return everywhere
