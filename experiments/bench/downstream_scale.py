"""Seconds and peak memory of retrieval and kNN at the sizes of real data sets, on random embeddings, two threads.

    python experiments/bench/downstream_scale.py --json scale.json

``cub``: CUB's test images, 5,794 x 2,048, each against all others (retrieval), and kNN against its 5,994 training
images. ``large``: 5,000 queries, kNN against 200,000 x 512. Each runs in a process of its own; memory is that process's
peak, libraries and embeddings included.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ppssl.metrics.knn import knn_predict
from ppssl.metrics.retrieval import retrieval_metrics
from ppssl.utils.results import provenance, show_table, write_json

THREADS = 2
LIMITS: dict[str, dict[str, float]] = {
    "cub retrieval": {"seconds": 10, "peak_gib": 1.5},
    "cub kNN": {"seconds": 10, "peak_gib": 1.5},
    "large kNN": {"seconds": 300, "peak_gib": 4},
}
"""What each may take."""


def _random(images: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings that cluster by class a little, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    return torch.randn(images, dim, generator=generator) + 0.1 * centres[labels], labels


def _cub_retrieval() -> Callable[[], object]:
    queries, labels = _random(5_794, 2_048, 200, 1)
    return lambda: retrieval_metrics(queries, labels)


def _knn(gallery: int, queries: int, dim: int) -> Callable[[], object]:
    (points, labels), (probes, _) = _random(gallery, dim, 200, 1), _random(queries, dim, 200, 2)
    return lambda: knn_predict(points, labels, probes, k=20)


TASKS = {
    "cub retrieval": _cub_retrieval,
    "cub kNN": lambda: _knn(5_994, 5_794, 2_048),
    "large kNN": lambda: _knn(200_000, 5_000, 512),
}


def measure(name: str) -> dict[str, float]:
    """Wall seconds, CPU seconds and this process's peak memory."""
    torch.set_num_threads(THREADS)
    task = TASKS[name]()
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Measure each task in a process of its own, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="Write the results to this file.")
    parser.add_argument("--task", choices=TASKS, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task is not None:
        sys.stdout.write(json.dumps(measure(args.task)))
        return
    found = {}
    for name in TASKS:
        command = [sys.executable, __file__, "--task", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout)
    if args.json is not None:
        content = {"tasks": found, "limits": LIMITS, "threads": THREADS}
        write_json(args.json, content | {"provenance": provenance()})
    rows = [
        [
            name,
            *(f"{row[key]:.1f}" for key in ("seconds", "cpu_seconds")),
            f"{row['peak_gib']:.2f}",
            f"{LIMITS[name]['seconds']} s, {LIMITS[name]['peak_gib']} GiB",
        ]
        for name, row in found.items()
    ]
    columns = ["", "wall s", "CPU s", "peak GiB", "limit"]
    show_table(f"Random embeddings, {THREADS} threads", columns, rows)


if __name__ == "__main__":
    main()
