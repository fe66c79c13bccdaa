"""Processes that end with a collective whose threads get no time: those of gloo have the lowest priority.

python idle_gloo.py REPEATS   exits with how many of the 2 x REPEATS processes failed
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import distributed

import ppssl.utils.distributed  # noqa: F401  what is tested: it ends gloo


def starve_threads() -> None:
    """All threads but this one give way to it, on one core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    for thread in map(int, os.listdir("/proc/self/task")):
        if thread != os.getpid():
            os.sched_setaffinity(thread, {core})
            os.setpriority(
                os.PRIO_PROCESS, thread, 19
            )  # not SCHED_IDLE: beside other work these never run


def take_part(rank: int, store: Path) -> None:
    """One of two processes."""
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(store), 2), rank=rank, world_size=2
    )
    distributed.barrier()
    starve_threads()
    for _ in range(3):
        distributed.all_reduce(torch.ones(1))
    sys.exit()


def main() -> None:
    failed = 0
    for _ in range(int(sys.argv[1])):
        with tempfile.TemporaryDirectory() as folder:
            children = []
            for rank in range(2):
                child = os.fork()
                if child == 0:
                    take_part(rank, Path(folder) / "store")
                children.append(child)
            failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    sys.exit(failed)


if __name__ == "__main__":
    main()
