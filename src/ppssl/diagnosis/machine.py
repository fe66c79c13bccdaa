"""The machine: devices, the precision that pays, disk, memory, shared memory, open files, cores against workers.

What is known of the machine is a :class:`Machine`, so that each check can be asked about another one.
"""

import resource
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ppssl.data.loader import default_workers, usable_cores
from ppssl.diagnosis.finding import Finding, gigabytes, ok, problem, warning

__all__ = [
    "TENSORS",
    "Demand",
    "Gpu",
    "Machine",
    "check_device",
    "check_disk",
    "check_machine",
    "check_memory",
    "check_open_files",
    "check_precision",
    "check_shared_memory",
    "check_workers",
    "this_machine",
]

_SHARED_MEMORY = Path("/dev/shm")
_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
_LITTLE_MEMORY = 2e9
_OTHER_FILES = 256
"""Files that a process has open beside those of its data loaders: libraries, logs."""
TENSORS = 8
"""Tensors of a batch of two views, each of which is an open file while it passes from a worker to the main process."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of NVIDIA.

    Attributes:
        name: Its name.
        memory: Its memory in bytes.
        bf16: Whether it computes in bfloat16 itself (compute capability 8.0 or more).
    """

    name: str
    memory: int
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """What is known of a machine; sizes in bytes, ``None`` where there is no such thing.

    Attributes:
        cores: CPU cores that this process may use.
        memory: Main memory that is available, at most what a container may use.
        disk: Free space where the run is written.
        shared_memory: Free space in ``/dev/shm``.
        open_files: Limit of open files of a process.
        gpus: The GPUs that torch sees.
        has_driver: Whether there is a driver of NVIDIA.
        cuda_build: Whether torch was built with CUDA.
    """

    cores: int
    memory: int | None
    disk: int
    shared_memory: int | None
    open_files: int | None
    gpus: tuple[Gpu, ...] = ()
    has_driver: bool = False
    cuda_build: bool = True


@dataclass(frozen=True)
class Demand:
    """What a run needs of a machine; sizes in bytes.

    Attributes:
        on_gpu: Whether it trains on a GPU.
        precision: The Trainer's precision.
        workers: Worker processes per data loader.
        prefetch: Batches that each worker makes in advance.
        batch: Size of a training batch, as workers pass it.
        checkpoints: Size of the checkpoints that are kept.
        tensors: Number of tensors of a training batch.
    """

    on_gpu: bool
    precision: str
    workers: int
    prefetch: int
    batch: int
    checkpoints: int
    tensors: int = TENSORS


def this_machine(folder: Path) -> Machine:
    """Look at this machine.

    Args:
        folder: Where the run is to be written; it may be missing.
    """
    existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    shared = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None
    return Machine(
        cores=usable_cores(),
        memory=_memory(),
        disk=shutil.disk_usage(existing).free,
        shared_memory=shared,
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        gpus=tuple(_gpu(i) for i in range(torch.cuda.device_count())),
        has_driver=Path("/dev/nvidiactl").exists(),
        cuda_build=torch.version.cuda is not None,
    )


def _gpu(number: int) -> Gpu:
    properties = torch.cuda.get_device_properties(number)
    return Gpu(properties.name, properties.total_memory, properties.major >= 8)


def _memory() -> int | None:
    """Available main memory in bytes, at most the limit of a container."""
    sizes = []
    with suppress(OSError, LookupError, ValueError):
        text = Path("/proc/meminfo").read_text()
        sizes.append(1024 * int(text.split("MemAvailable:")[1].split()[0]))
    with suppress(OSError, ValueError):
        sizes.append(int(_CONTROL_GROUP.read_text()))
    return min(sizes, default=None)


def check_machine(machine: Machine, demand: Demand | None = None) -> list[Finding]:
    """All checks of a machine; without a run, those that need none."""
    findings = [*check_device(machine, demand), *check_memory(machine)]
    if demand is None:
        return [
            *findings,
            *check_disk(machine, 0),
            *check_open_files(machine, default_workers(), 2),
        ]
    return [
        *findings,
        *check_precision(machine, demand),
        *check_disk(machine, demand.checkpoints),
        *check_shared_memory(machine, demand),
        *check_open_files(machine, demand.workers, demand.prefetch, demand.tensors),
        *check_workers(machine, demand.workers),
    ]


def check_device(machine: Machine, demand: Demand | None = None) -> list[Finding]:
    """Whether the run uses the GPU that there is."""
    what = "device"
    if machine.has_driver and not machine.gpus:
        if not machine.cuda_build:
            advice = "Install a torch with CUDA: https://pytorch.org/get-started."
            return [problem(what, "a GPU, and a torch that was built without CUDA", advice)]
        advice = "Compare `nvidia-smi`'s version with `torch.version.cuda`, and look at CUDA_VISIBLE_DEVICES."
        return [problem(what, "a driver of NVIDIA, and no GPU that torch can use", advice)]
    if not machine.gpus:
        return [ok(what, f"CPU, {_cores(machine)}; no GPU")]
    named = ", ".join(f"{gpu.name} ({gigabytes(gpu.memory)})" for gpu in machine.gpus)
    if demand is not None and not demand.on_gpu:
        advice = "Set `trainer.accelerator` to `auto` or `gpu`."
        return [warning(what, f"the run is on the CPU, and there is {named}", advice)]
    return [ok(what, f"{named}; {_cores(machine)}")]


def _cores(machine: Machine) -> str:
    return f"{machine.cores} core{'s' if machine.cores != 1 else ''}"


def check_precision(machine: Machine, demand: Demand) -> list[Finding]:
    """Whether the precision is one that the device computes in, and that pays."""
    what, precision = "precision", demand.precision
    if not demand.on_gpu:
        if precision == "16-mixed":
            advice = "Set `trainer.precision` to `32-true`."
            return [warning(what, "16-mixed on a CPU, which computes in fp16 slowly", advice)]
        return [ok(what, precision)]
    bf16 = all(gpu.bf16 for gpu in machine.gpus)
    if precision.startswith("bf16") and not bf16:
        advice = "Set `trainer.precision` to `16-mixed`, which this GPU has units for."
        return [problem(what, f"{precision} on {machine.gpus[0].name}, which has no bf16", advice)]
    if precision.startswith("32") and machine.gpus:
        better = "bf16-mixed" if bf16 else "16-mixed"
        advice = f"Set `trainer.precision` to `{better}`: faster, with half of the memory for activations."
        return [warning(what, f"{precision} on {machine.gpus[0].name}", advice)]
    return [ok(what, precision)]


def check_disk(machine: Machine, need: int) -> list[Finding]:
    """Whether the checkpoints fit on the disk."""
    what, value = "disk", f"{gigabytes(machine.disk)} free"
    value += f", the run keeps {gigabytes(need)}" if need else ""
    advice = "Make room, or choose another `trainer.default_root_dir`."
    if machine.disk < max(need, 100e6):
        return [problem(what, value, advice)]
    if machine.disk < max(2 * need, 1e9):
        return [warning(what, value, advice)]
    return [ok(what, value)]


def check_memory(machine: Machine) -> list[Finding]:
    """Whether there is main memory at all; the trial measures what the run needs."""
    if machine.memory is None:
        return []
    value = f"{gigabytes(machine.memory)} available"
    if machine.memory < _LITTLE_MEMORY:
        advice = "End other programs, or give the container more (`--memory`)."
        return [warning("memory", value, advice)]
    return [ok("memory", value)]


def check_shared_memory(machine: Machine, demand: Demand) -> list[Finding]:
    """Whether the batches of all workers fit into shared memory; those of training and validation are in it at once."""
    if machine.shared_memory is None or demand.workers == 0:
        return []
    need = 2 * demand.workers * demand.prefetch * demand.batch
    value = f"{gigabytes(machine.shared_memory)} free in /dev/shm, the workers need up to {gigabytes(need)}"
    if machine.shared_memory < need:
        advice = (
            "Give the container more (`--shm-size 8g`, or `--ipc host`), or lower `data.num_workers`, "
            "`data.prefetch_factor` or `data.batch_size`: workers are killed by a bus error otherwise."
        )
        return [problem("shared memory", value, advice)]
    return [ok("shared memory", value)]


def check_open_files(
    machine: Machine, workers: int, prefetch: int, tensors: int = TENSORS
) -> list[Finding]:
    """Whether a process may open as many files as its workers pass tensors."""
    if machine.open_files is None:
        return []
    need = _OTHER_FILES + 2 * workers * prefetch * tensors
    value = f"at most {machine.open_files:,}, the run needs about {need:,}"
    if machine.open_files < need:
        return [
            problem("open files", value, f"Raise the limit: `ulimit -n {max(4096, 2 * need)}`.")
        ]
    return [ok("open files", value)]


def check_workers(machine: Machine, workers: int) -> list[Finding]:
    """Whether the workers have cores of their own."""
    value = f"{workers} per data loader, {_cores(machine)}"
    best = max(1, min(16, machine.cores - 1))
    if workers > machine.cores:
        advice = f"Set `data.num_workers` to {best}, or leave it out: more processes than cores wait for each other."
        return [warning("workers", value, advice)]
    if workers == 0 and machine.cores > 1:
        advice = f"Set `data.num_workers` to {best}, or leave it out: without workers each step waits for its images."
        return [warning("workers", value, advice)]
    return [ok("workers", value)]
