"""Benchmark of the training step: time and memory of MoCo v2, AIS, IADM and other libraries (``ppssl bench step``)."""

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import track

from ppssl.studies.step_variants import (
    BASELINE,
    DEFAULT_VARIANTS,
    VARIANTS,
    Precision,
    Step,
    StepSettings,
    installed_peers,
    make_step,
    peer_variants,
)
from ppssl.studies.timing import median_ratios, spread, synchronize, time_rounds
from ppssl.utils.checks import check_choice, check_pixels, check_range
from ppssl.utils.device import resolve_device
from ppssl.utils.errors import ArgumentError
from ppssl.utils.results import provenance

__all__ = ["bench_step"]

STEPS_ON_GPU = 16
"""Steps per round on a GPU, which takes them up before the last one is done."""


def bench_step(
    backbone: str = "resnet50",
    batch_size: int = 16,
    image_size: int = 224,
    repeats: int = 10,
    variants: Sequence[str] | None = None,
    *,
    peers: Sequence[str] | None = None,
    channels_last_peers: bool = False,
    precision: Precision = "32-true",
    queue_size: int = 4096,
    steps: int | None = None,
    memory: bool = True,
) -> dict[str, Any]:
    """Measure time and memory of one optimizer step of each variant, on a GPU if there is one.

    All variants are timed in turns: each round times every variant once, in rotated order, after one warm-up round.
    Ratios are computed within a round, so a machine that slows down affects both times. For a variant that computes A*
    in every n-th step, a time is the mean over n steps. Memory is measured in a separate process per variant.

    Args:
        backbone: Any timm model name, or ``resnet_small``.
        batch_size: Images per step.
        image_size: Height and width in pixels.
        repeats: Number of rounds.
        variants: Names of :data:`~ppssl.studies.step_variants.VARIANTS`; ``None``: ``encoder``, ``plain``, ``ais``,
            ``iadm``, ``full``. ``plain`` is always included.
        peers: Names of :data:`~ppssl.studies.peers.PEERS`; ``None``: lightly if it is installed.
        channels_last_peers: Also time the peers with model and images in the memory format ``channels_last``.
        precision: ``"32-true"`` or ``"bf16-mixed"``, for all variants.
        queue_size: Number of keys in the queue; rounded down to whole batches.
        steps: Steps per variant and round, rounded up to a whole period of A*; ``None``: 16 on a GPU, else 1.
        memory: Whether to measure memory.

    Returns:
        ``seconds`` per step (median, min and max) and ``images_per_second`` by variant; ``max_rss_mib``, and on a GPU
        ``max_device_mib``; ``ratios`` of seconds by ``<variant>/plain`` and ``<variant>/<peer>``, medians over the
        rounds; the arguments, and the provenance.

    Raises:
        UserError: A peer is not installed, or there is no such backbone.
    """
    check_range(">= 1", batch_size=batch_size, repeats=repeats, steps=steps)
    check_pixels(image_size=image_size)
    check_range(">= 1", queue_size=queue_size)
    check_choice(get_args(Precision), precision=precision)
    ours = _our_variants(variants)
    peer_names = peer_variants(
        installed_peers() if peers is None else peers, channels_last=channels_last_peers
    )
    whole_queue = max(1, queue_size // batch_size) * batch_size
    settings = StepSettings(backbone, batch_size, image_size, precision, whole_queue)
    return _measure(settings, ours, peer_names, repeats=repeats, steps=steps, memory=memory)


def _measure(
    settings: StepSettings,
    ours: Sequence[str],
    peers: Sequence[str],
    *,
    repeats: int,
    steps: int | None,
    memory: bool,
) -> dict[str, Any]:
    """The results of :func:`bench_step` for variants of ours and peers."""
    device, names = resolve_device("auto"), [*ours, *peers]
    if steps is None:
        steps = STEPS_ON_GPU if device.type == "cuda" else 1
    timed = {name: _timed_steps(make_step(name, settings), steps, device) for name in names}
    times = time_rounds(timed, repeats)
    del timed  # frees a GPU's memory for the processes below
    peaks = {n: _peak_memory(n, settings) for n in track(names, "Memory")} if memory else {}
    seconds, arguments = spread(times), {"repeats": repeats, "steps": steps}
    return {
        "schema_version": 2,
        "device": _device_name(device),
        "arguments": asdict(settings) | arguments | {"threads": torch.get_num_threads()},
        "units": {"seconds": "s", "images_per_second": "1/s", "ratios": "1"}
        | {name: "MiB" for peak in peaks.values() for name in peak},
        "seconds": seconds,
        "images_per_second": {n: settings.batch_size / t["median"] for n, t in seconds.items()},
        "ratios": _ratios(times, peers),
        **_by_kind(peaks),
        "provenance": provenance(),
    }


def _our_variants(variants: Sequence[str] | None) -> list[str]:
    """Names of the variants of ours, in the order of the table; the baseline is always included."""
    for name in variants or ():
        if name not in VARIANTS:
            choices = "; ".join(VARIANTS)  # some names have commas
            raise ArgumentError(f"`variants` must be one or more of {choices}, got {name!r}.")
    wanted = (*(DEFAULT_VARIANTS if variants is None else variants), BASELINE)
    return [name for name in VARIANTS if name in wanted]


def _ratios(times: dict[str, list[float]], peers: Sequence[str] = ()) -> dict[str, float]:
    """Ratios to the baseline and, of the variants of ours, to each peer."""
    ours = {name: seconds for name, seconds in times.items() if name not in peers}
    ratios = median_ratios(times, BASELINE)
    for peer in peers:
        ratios |= median_ratios(ours | {peer: times[peer]}, peer)
    return ratios


def _timed_steps(step: Step, steps: int, device: torch.device) -> Callable[[], float]:
    """Return a function that takes steps, whole periods of them, and returns the mean seconds of a step."""
    numbers = itertools.count()
    count = -(-steps // step.period) * step.period

    def seconds() -> float:
        synchronize(device)
        started = time.perf_counter()
        for number in itertools.islice(numbers, count):
            step.run(number)
        synchronize(device)
        return (time.perf_counter() - started) / count

    return seconds


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _by_kind(peaks: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Turn kinds of memory by variant into variants by kind of memory."""
    kinds: dict[str, dict[str, float]] = {}
    for variant, peak in peaks.items():
        for kind, mib in peak.items():
            kinds.setdefault(kind, {})[variant] = mib
    return kinds


def _peak_memory(variant: str, settings: StepSettings) -> dict[str, float]:
    """Peak memory in MiB of a process that runs a variant for three steps and at least one period."""
    command = [sys.executable, "-m", "ppssl.studies.bench_step"]
    command += [variant, json.dumps(asdict(settings))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _print_peak_memory() -> None:
    step = make_step(sys.argv[1], StepSettings(**json.loads(sys.argv[2])))
    for number in range(max(3, step.period)):
        step.run(number)
    peak = {"max_rss_mib": _peak_kib() / 1024}
    if torch.cuda.is_available():
        peak["max_device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    sys.stdout.write(f"{json.dumps(peak)}\n")


def _peak_kib() -> int:
    """Peak resident memory of this process; on Linux VmHWM, since ``ru_maxrss`` starts from the parent's value."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _print_peak_memory()
