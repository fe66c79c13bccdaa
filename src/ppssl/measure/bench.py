"""What a training step costs: variants timed in one run, in turns, and each one's memory in a process of its own."""

import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ppssl.module import PPSSL
from ppssl.results import provenance

__all__ = ["VARIANTS", "bench_step"]

NUM_IMAGES = 4096
"""The queue is as for a data set of this size."""


def _encoder_step(model: PPSSL, batch: dict[str, Any]) -> Tensor:
    """Forward and backward through the encoder alone: what any training costs."""
    return model.encoder(batch["views"][0]).float().square().mean()


def _full_step(model: PPSSL, batch: dict[str, Any]) -> Tensor:
    return model.losses(batch, seed=0, progress=0.5)[0]


VARIANTS: dict[str, Callable[[PPSSL, dict[str, Any]], Tensor]] = {
    "encoder": _encoder_step,
    "plain": _full_step,
}
"""What is timed: ``encoder``, forward and backward alone; ``plain``, a MoCo v2 step."""
BASELINE = "plain"


def bench_step(
    backbone: str = "resnet50", batch_size: int = 16, image_size: int = 224, repeats: int = 10
) -> dict[str, Any]:
    """Time one optimizer step of each variant.

    The variants take turns in rotated order, so that a machine that slows down slows all of them; one round warms up.

    Args:
        backbone: Any timm model name, or ``resnet_small``.
        batch_size: Images a step.
        image_size: Height and width in pixels.
        repeats: Timed steps of each variant.

    Returns:
        ``seconds`` (median, min and max) and ``max_rss_mib`` by variant, ``ratios`` of medians by ``<a>/<b>``,
        the arguments and where it ran.
    """
    for name in ("batch_size", "image_size", "repeats"):
        if locals()[name] < 1:
            raise ValueError(f"`{name}` must be >= 1, got {locals()[name]}.")
    arguments: dict[str, Any] = {
        "backbone": backbone,
        "batch_size": batch_size,
        "image_size": image_size,
    }
    steps = {name: _stepper(name, **arguments) for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    names = list(VARIANTS)
    for i in range(repeats + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            elapsed = steps[name]()
            if i > 0:
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "schema_version": 1,
        "arguments": arguments | {"repeats": repeats, "threads": torch.get_num_threads()},
        "units": {"seconds": "s", "max_rss_mib": "MiB", "ratios": "1"},
        "seconds": {
            n: {"median": medians[n], "min": min(t), "max": max(t)} for n, t in times.items()
        },
        "max_rss_mib": {name: _memory(name, arguments) for name in VARIANTS},
        "ratios": {
            f"{a}/{b}": medians[a] / medians[b]
            for a, b in itertools.permutations(names, 2)
            if b == BASELINE
        },
        "provenance": provenance(),
    }


def _stepper(
    variant: str, *, backbone: str, batch_size: int, image_size: int
) -> Callable[[], float]:
    """A function that takes one optimizer step and returns its seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = PPSSL(backbone=backbone, image_size=image_size)
    model.build(NUM_IMAGES)
    model.to(device).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9
    )
    views = [torch.randn(batch_size, 3, image_size, image_size, device=device) for _ in range(2)]
    batch = {"views": views, "index": torch.arange(batch_size, device=device)}

    def step() -> float:
        _synchronize(device)
        started = time.perf_counter()
        optimizer.zero_grad()
        VARIANTS[variant](model, batch).backward()
        optimizer.step()
        if variant != "encoder":
            model.contrastive.after_step(model.encoder, total_steps=1000)
        _synchronize(device)
        return time.perf_counter() - started

    return step


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(variant: str, arguments: Mapping[str, Any]) -> float:
    """Largest resident size of a process that takes three steps of one variant, in MiB."""
    command = [sys.executable, "-m", "ppssl.measure.bench", variant, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _report_memory() -> None:
    step = _stepper(sys.argv[1], **json.loads(sys.argv[2]))
    for _ in range(3):
        step()
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")


if __name__ == "__main__":
    _report_memory()
