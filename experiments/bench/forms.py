"""What the forms of IADM cost in a training step whose maps are kept by image (docs/method.md, D18 to D21).

    python -m experiments.bench.forms --json experiments/results/bench-step-forms.json

The steps of all forms are timed in turns; each is divided by plain MoCo v2's in the same round. ``zoom`` changes where
the query's crop is cut and the window on the teacher's side what a bank holds: their steps are plain ones.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from experiments.attend import AttendBoth
from experiments.shown import CELLS, Shown

from ppssl import PPSSL
from ppssl.studies.step_variants import NUM_IMAGES, update
from ppssl.studies.timing import median_ratios, spread, time_rounds
from ppssl.utils.optim import make_optimizer, weight_decay_groups
from ppssl.utils.results import provenance, show_table, write_json

FORMS: dict[str, Callable[..., PPSSL]] = {
    "plain": PPSSL,
    "background out": partial(Shown, form="background out"),
    "drop the obvious": partial(Shown, form="drop the obvious"),
    "attend on both sides": AttendBoth,
}


def make_step(form: str, backbone: str, batch_size: int, image_size: int) -> Callable[[], float]:
    """A function that takes a step and returns its seconds."""
    torch.manual_seed(0)
    model = FORMS[form](backbone=backbone, image_size=image_size)
    model.build(NUM_IMAGES)
    model.train()
    model._maps = torch.rand(NUM_IMAGES, CELLS, CELLS) if isinstance(model, Shown) else None
    groups = weight_decay_groups(model, model.weight_decay)
    optimizer = make_optimizer(groups, model.optimizer, lr=1e-3, fused=True)
    shape = (batch_size, 3, image_size, image_size)
    views = [torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    geometry = torch.tensor([0.2, 0.2, 0.6, 0.6, 0.0]).expand(batch_size, 2, 5)
    batch: Any = {"views": views, "index": torch.arange(batch_size), "geometry": geometry}

    def step() -> float:
        started = time.perf_counter()
        loss, _ = model.losses(batch, seed=0, progress=0.5, number=0)
        update(model, optimizer, loss)
        return time.perf_counter() - started

    return step


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    size = (arguments.backbone, arguments.batch_size, arguments.image_size)
    times = time_rounds({form: make_step(form, *size) for form in FORMS}, arguments.repeats)
    ratios = median_ratios(times, "plain")
    found = {
        "arguments": vars(arguments)
        | {"json": arguments.json.name, "threads": torch.get_num_threads()},
        "units": {"seconds": "s", "ratios": "1"},
        "seconds": spread(times),
        "ratios": ratios,
        "provenance": provenance(),
    }
    write_json(arguments.json, found)
    rows = [[name, f"{ratio:.2f}"] for name, ratio in ratios.items()]
    show_table("Seconds of a step", ["form", "ratio"], rows)


if __name__ == "__main__":
    main()
