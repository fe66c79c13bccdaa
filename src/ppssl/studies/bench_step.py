"""What a training step costs: variants timed in one run, in turns, and each one's memory in a process of its own."""

import json
import operator
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

__all__ = ["VARIANTS", "bench_step"]

NUM_IMAGES = 4096
"""The queue and the bank are as for a data set of this size."""
NUM_TEXTS = 300


def _ais() -> AIS:
    """AIS over a bank of random vectors: what it costs once the real bank is made."""
    draw = torch.Generator().manual_seed(0)
    texts, images = (
        F.normalize(torch.randn(n, 512, generator=draw), dim=1) for n in (NUM_TEXTS, NUM_IMAGES)
    )
    corpus = TextCorpus([f"description {j}" for j in range(NUM_TEXTS)])
    plugin = AIS("random")
    plugin.attach(
        TextBank(corpus, texts, images[:, None].half(), images.mean(dim=0), 0, temperature=0.01)
    )
    return plugin


def _iadm(every: int = 1) -> IADM:
    """IADM at its full weight from the first step on."""
    return IADM(start=0, full=0, every=every)


VARIANTS: dict[str, Callable[[], dict[str, LossPlugin]]] = {
    "encoder": dict,
    "plain": dict,
    "ais": lambda: {"ais": _ais()},
    "iadm": lambda: {"iadm": _iadm()},
    "full": lambda: {"ais": _ais(), "iadm": _iadm()},
    "full, every 2": lambda: {"ais": _ais(), "iadm": _iadm(2)},
    "full, every 4": lambda: {"ais": _ais(), "iadm": _iadm(4)},
}
"""The plugins of what is timed. ``encoder`` is forward and backward of the encoder alone, ``plain`` a MoCo v2 step."""
BASELINE = "plain"


def bench_step(
    backbone: str = "resnet50",
    batch_size: int = 16,
    image_size: int = 224,
    repeats: int = 10,
    variants: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Time one optimizer step of each variant; of one that makes A* in every n-th step, the mean over n steps.

    In each round every variant has its turn, in rotated order, and a ratio is of two times of one round: a machine that
    slows down slows all of them. One round warms up.

    Args:
        backbone: Any timm model name, or ``resnet_small``.
        batch_size: Images a step.
        image_size: Height and width in pixels.
        repeats: Timed steps of each variant.
        variants: Which of :data:`VARIANTS`; ``None``: all. ``plain`` is always among them.

    Returns:
        ``seconds`` (median, min and max) and ``max_rss_mib`` by variant, ``ratios`` by ``<a>/plain``, the median of the
        rounds', the arguments and where it ran.
    """
    check_range(">= 1", batch_size=batch_size, image_size=image_size, repeats=repeats)
    for name in variants or ():
        if name not in VARIANTS:
            raise ValueError(f"`variants` must be of {', '.join(VARIANTS)}, got {name!r}.")
    names = [n for n in VARIANTS if variants is None or n in (*variants, BASELINE)]
    arguments: dict[str, Any] = {
        "backbone": backbone,
        "batch_size": batch_size,
        "image_size": image_size,
    }
    times = _rounds({name: _stepper(name, **arguments) for name in names}, repeats)
    return {
        "schema_version": 1,
        "arguments": arguments | {"repeats": repeats, "threads": torch.get_num_threads()},
        "units": {"seconds": "s", "max_rss_mib": "MiB", "ratios": "1"},
        "seconds": {
            n: {"median": statistics.median(t), "min": min(t), "max": max(t)}
            for n, t in times.items()
        },
        "max_rss_mib": {name: _memory(name, arguments) for name in track(names, "Memory")},
        "ratios": _ratios(times),
        "provenance": provenance(),
    }


def _rounds(steps: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each variant, one a round, after a round that does not count."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in track(range(repeats + 1), "Rounds"):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            elapsed = steps[name]()
            if i > 0:
                times[name].append(elapsed)
    return times


def _ratios(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Each variant's time over the baseline's of the same round, the median of the rounds."""
    return {
        f"{name}/{BASELINE}": statistics.median(map(operator.truediv, own, times[BASELINE]))
        for name, own in times.items()
        if name != BASELINE
    }


def _stepper(
    variant: str, *, backbone: str, batch_size: int, image_size: int
) -> Callable[[], float]:
    """A function that takes an optimizer step, or as many as A* is made once in, and returns the seconds of one."""
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

    def period_of_steps() -> float:
        _synchronize(device)
        started = time.perf_counter()
        for number in range(period):
            step(number)
        _synchronize(device)
        return (time.perf_counter() - started) / period

    return period_of_steps


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(variant: str, arguments: Mapping[str, Any]) -> float:
    """Largest resident size of a process that takes three steps of one variant, in MiB."""
    command = [sys.executable, "-m", "ppssl.studies.bench_step", variant, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _report_memory() -> None:
    step = _stepper(sys.argv[1], **json.loads(sys.argv[2]))
    for _ in range(3):
        step()
    sys.stdout.write(f"{_peak_kib() / 1024}\n")


def _peak_kib() -> int:
    """This process's largest resident size: Linux's VmHWM, for ``ru_maxrss`` begins there with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _report_memory()
