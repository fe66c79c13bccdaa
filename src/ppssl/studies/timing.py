"""Timing of tasks in turns, and their medians and ratios."""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import cv2
import torch
from rich.progress import track

__all__ = ["median_ratios", "single_thread", "spread", "synchronize", "time_rounds"]


def time_rounds(
    tasks: Mapping[str, Callable[[], float]], repeats: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Run all tasks in turns, in each round once and in rotated order.

    Args:
        tasks: Functions by name, which return what they measured, such as seconds.
        repeats: Number of rounds.
        warm_up: Number of rounds before these, whose values are dropped.

    Returns:
        The values of each task, one per round.
    """
    names = list(tasks)
    values: dict[str, list[float]] = {name: [] for name in names}
    for i in track(range(repeats + warm_up), "Rounds"):
        gc.collect()
        start = i % len(names)
        for name in names[start:] + names[:start]:
            value = tasks[name]()
            if i >= warm_up:
                values[name].append(value)
    return values


def median_ratios(values: Mapping[str, Sequence[float]], baseline: str) -> dict[str, float]:
    """Median over the rounds of each task's value divided by the baseline's value in the same round.

    A machine that slows down affects both values of a round, so it changes no ratio.

    Returns:
        Ratios by ``<task>/<baseline>``, of all tasks but the baseline.
    """
    medians = {}
    for name, measured in values.items():
        if name != baseline:
            ratios = [v / base for v, base in zip(measured, values[baseline], strict=True)]
            medians[f"{name}/{baseline}"] = statistics.median(ratios)
    return medians


def spread(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum over the rounds of each task."""
    return {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v)}
        for name, v in values.items()
    }


def synchronize(device: torch.device) -> None:
    """Wait until all work on a GPU is done; nothing to do on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def single_thread() -> Iterator[None]:
    """Context in which torch and OpenCV use one thread."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
