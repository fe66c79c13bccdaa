"""Benchmark of the training step: time and memory of MoCo v2, AIS and IADM (``ppssl bench step``)."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track

from ppssl.losses.ais.plugin import AIS
from ppssl.losses.base import LossPlugin
from ppssl.losses.iadm.plugin import IADM
from ppssl.module import PPSSL
from ppssl.text.bank import TextBank
from ppssl.text.corpus import TextCorpus
from ppssl.utils.checks import check_range
from ppssl.utils.device import resolve_device
from ppssl.utils.results import provenance

__all__ = ["VARIANTS", "bench_step", "random_ais"]

NUM_IMAGES = 4096
"""Size of the data set, which determines the sizes of the queue and of the text bank."""
NUM_TEXTS = 300
"""Number of descriptions in the text bank."""


class _RandomBank(AIS):
    """AIS whose bank is attached, not made."""

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Keep the bank."""


def random_ais() -> AIS:
    """AIS over a bank of random vectors: the cost of AIS once the bank is made."""
    draw = torch.Generator().manual_seed(0)
    texts, images = (
        F.normalize(torch.randn(n, 512, generator=draw), dim=1) for n in (NUM_TEXTS, NUM_IMAGES)
    )
    corpus = TextCorpus([f"description {j}" for j in range(NUM_TEXTS)])
    plugin = _RandomBank("random")
    bank = TextBank(corpus, texts, images[:, None].half(), images.mean(dim=0), 0, temperature=0.01)
    plugin.attach(bank)
    return plugin


def _iadm(every: int = 1) -> IADM:
    """IADM with full weight from the first step."""
    return IADM(start=0, full=0, every=every)


VARIANTS: dict[str, Callable[[], dict[str, LossPlugin]]] = {
    "encoder": dict,
    "plain": dict,
    "ais": lambda: {"ais": random_ais()},
    "iadm": lambda: {"iadm": _iadm()},
    "full": lambda: {"ais": random_ais(), "iadm": _iadm()},
    "full, every 2": lambda: {"ais": random_ais(), "iadm": _iadm(2)},
    "full, every 4": lambda: {"ais": random_ais(), "iadm": _iadm(4)},
}
"""Plugins by variant; ``plain`` is MoCo v2, ``encoder`` only forward and backward pass of the encoder."""
BASELINE = "plain"
"""The variant that times are divided by."""


def bench_step(
    backbone: str = "resnet50",
    batch_size: int = 16,
    image_size: int = 224,
    repeats: int = 10,
    variants: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure time and memory of one optimizer step of each variant.

    All variants are timed in turns: each round times every variant once, in rotated order, after one warm-up round.
    Ratios are computed within a round, so a machine that slows down affects both times. For a variant that computes A*
    in every n-th step, a time is the mean over n steps. Memory is measured in a separate process per variant.

    Args:
        backbone: Any timm model name, or ``resnet_small``.
        batch_size: Images per step.
        image_size: Height and width in pixels.
        repeats: Number of rounds.
        variants: Names of :data:`VARIANTS`; ``None``: all. ``plain`` is always included.

    Returns:
        ``seconds`` (median, min and max) and ``max_rss_mib`` by variant; ``ratios`` by ``<variant>/plain``, medians
        over the rounds; the arguments, and the provenance.
    """
    check_range(">= 1", batch_size=batch_size, image_size=image_size, repeats=repeats)
    for name in variants or ():
        if name not in VARIANTS:
            choices = ", ".join(VARIANTS)
            raise ValueError(f"`variants` must be one or more of {choices}, got {name!r}.")
    names = [n for n in VARIANTS if variants is None or n in (*variants, BASELINE)]
    arguments: dict[str, Any] = {
        "backbone": backbone,
        "batch_size": batch_size,
        "image_size": image_size,
    }
    times = _time_rounds({name: _timed_step(name, **arguments) for name in names}, repeats)
    return {
        "schema_version": 1,
        "arguments": arguments | {"repeats": repeats, "threads": torch.get_num_threads()},
        "units": {"seconds": "s", "max_rss_mib": "MiB", "ratios": "1"},
        "seconds": {
            n: {"median": statistics.median(t), "min": min(t), "max": max(t)}
            for n, t in times.items()
        },
        "max_rss_mib": {name: _peak_memory(name, arguments) for name in track(names, "Memory")},
        "ratios": _ratios(times),
        "provenance": provenance(),
    }


def _time_rounds(steps: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, without the warm-up round."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in track(range(repeats + 1), "Rounds"):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            elapsed = steps[name]()
            if i > 0:
                times[name].append(elapsed)
    return times


def _ratios(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Median over the rounds of each variant's time divided by the baseline's time in the same round."""
    medians = {}
    for name, seconds in times.items():
        if name != BASELINE:
            ratios = [s / base for s, base in zip(seconds, times[BASELINE], strict=True)]
            medians[f"{name}/{BASELINE}"] = statistics.median(ratios)
    return medians


def _timed_step(
    variant: str, *, backbone: str, batch_size: int, image_size: int
) -> Callable[[], float]:
    """Return a function that runs one period of optimizer steps and returns the mean seconds of a step.

    A period is one step, or n steps if A* is computed in every n-th step.
    """
    device = resolve_device("auto")
    torch.manual_seed(0)
    plugins = VARIANTS[variant]()
    model = PPSSL(backbone=backbone, image_size=image_size, plugins=plugins)
    period = max((p.every for p in plugins.values() if isinstance(p, IADM)), default=1)
    model.build(NUM_IMAGES)
    model.to(device).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9
    )
    views = [torch.randn(batch_size, 3, image_size, image_size, device=device) for _ in range(2)]
    batch = {"views": views, "index": torch.arange(batch_size, device=device)}

    def step(number: int) -> None:
        optimizer.zero_grad()
        if variant == "encoder":
            loss = model.encoder(views[0]).float().square().mean()
        else:
            loss, _ = model.losses(batch, seed=0, progress=0.5, number=number)
        loss.backward()
        model.on_after_backward()
        optimizer.step()
        if variant != "encoder":
            model.contrastive.after_step(model.encoder, total_steps=1000)

    def time_period() -> float:
        _synchronize(device)
        started = time.perf_counter()
        for number in range(period):
            step(number)
        _synchronize(device)
        return (time.perf_counter() - started) / period

    return time_period


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(variant: str, arguments: Mapping[str, Any]) -> float:
    """Peak resident memory in MiB of a process that runs three steps of a variant."""
    command = [sys.executable, "-m", "ppssl.studies.bench_step", variant, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _print_peak_memory() -> None:
    step = _timed_step(sys.argv[1], **json.loads(sys.argv[2]))
    for _ in range(3):
        step()
    sys.stdout.write(f"{_peak_kib() / 1024}\n")


def _peak_kib() -> int:
    """Peak resident memory of this process; on Linux VmHWM, since ``ru_maxrss`` starts from the parent's value."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _print_peak_memory()
