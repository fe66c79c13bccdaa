"""What a GPU does: steps a second of ours, lightly and plain torch, waiting for data, synchronisations; in ten minutes.

``python experiments/bench/gpu.py --out runs/gpu`` needs one NVIDIA GPU; JSON and the profiler's table go to ``--out``.
With ``--small`` it runs anywhere in a minute, to see that it runs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from ppssl import IADM, PPSSL, FolderDataModule, MoCo
from ppssl.studies.bench_step import random_ais
from ppssl.studies.peers import PEERS
from ppssl.utils.optim import make_optimizer, weight_decay_groups
from ppssl.utils.results import provenance, write_json

QUEUE = 65_536
NUM_IMAGES = 4096


def main() -> None:
    """Run everything that there is time for; write after each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--workers", type=int, default=15)
    args = parser.parse_args()
    if args.small:
        args.batch_size, args.image_size, args.backbone, args.workers = 4, 64, "resnet18", 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "arguments": {k: str(v) for k, v in vars(args).items() if k != "out"},
        "provenance": provenance(),
    }
    for name, part in (("training", training), ("profile", profile)):
        started = time.perf_counter()
        results[name] = part(args, device)
        results[f"{name}_took"] = time.perf_counter() - started
        write_json(args.out / "gpu.json", results)
        print(name, results[name], flush=True)  # noqa: T201


def plugins(which: str) -> dict[str, Any]:
    """None, or AIS over random vectors and IADM with its defaults at full weight."""
    if which == "plain":
        return {}
    return {"ais": random_ais(), "iadm": IADM(start=0, full=0)}


def ours(
    which: str, batch_norm: Any, args: argparse.Namespace, device: torch.device
) -> Callable[[int], None]:
    """A step of ours, as a Trainer takes it: losses, backward pass, queue, optimizer, momentum update."""
    contrastive = MoCo(queue_size=QUEUE if not args.small else 64, prefill="random")
    model = PPSSL(
        args.backbone, batch_norm=batch_norm, contrastive=contrastive, plugins=plugins(which)
    )
    model.build(NUM_IMAGES)
    model.to(device).train()
    optimizer = make_optimizer(weight_decay_groups(model, 1e-4), "sgd", lr=0.03, fused=True)
    views = random_views(args, device)
    index = torch.arange(args.batch_size, device=device)

    def step(number: int) -> None:
        batch = {"views": views, "index": index}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, _ = model.losses(batch, seed=number, progress=0.5, number=number)
        loss.backward()
        model.on_after_backward()
        optimizer.step()
        optimizer.zero_grad()
        model.contrastive.after_step(model.encoder, total_steps=5000)

    return step


def peer(
    name: str, channels_last: bool, args: argparse.Namespace, device: torch.device
) -> Callable[[int], None]:
    """A step of another implementation."""
    model = PEERS[name](args.backbone, QUEUE if not args.small else 64).to(device).train()
    views = random_views(args, device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        views = [v.to(memory_format=torch.channels_last) for v in views]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)

    def step(number: int) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(*views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def random_views(args: argparse.Namespace, device: torch.device) -> list[Tensor]:
    """Two batches of noise."""
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    return [torch.randn(shape, device=device) for _ in range(2)]


def steps(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Images a second of each variant, the median of rounds in which all have their turn."""
    makers: dict[str, Callable[[], Callable[[int], None]]] = {
        "ours plain, batch norm": partial(ours, "plain", "batch", args, device),
        "ours plain, frozen": partial(ours, "plain", "frozen", args, device),
        "ours full, batch norm": partial(ours, "full", "batch", args, device),
        "ours full, frozen": partial(ours, "full", "frozen", args, device),
        "lightly": partial(peer, "lightly", False, args, device),
        "lightly, channels_last": partial(peer, "lightly", True, args, device),
        "torch": partial(peer, "torch", False, args, device),
        "torch, channels_last": partial(peer, "torch", True, args, device),
    }
    rounds, length, warm = (1, 4, 1) if args.small else (3, 16, 8)
    rates: dict[str, list[float]] = {name: [] for name in makers}
    variants = {}
    for name, make in makers.items():
        try:
            variants[name] = make()
        except ImportError as error:
            print(f"{name}: left out, {error}")  # noqa: T201
    for step in variants.values():
        for number in range(warm):
            step(number)
    for _ in range(rounds):
        for name, step in variants.items():
            wait(device)
            started = time.perf_counter()
            for number in range(length):
                step(number)
            wait(device)
            rates[name].append(args.batch_size * length / (time.perf_counter() - started))
    return {name: round(statistics.median(values), 1) for name, values in rates.items() if values}


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def profile(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Kernels, copies and synchronisations in four steps of ours, full; the table goes to a file."""
    step = ours("full", "batch", args, device)
    for number in range(4):
        step(number)
    wait(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace:
        for number in range(4):
            step(number)
        wait(device)
    averages = trace.key_averages()
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = averages.table(sort_by=by, row_limit=40)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "profile.txt").write_text(table)
    watched = (
        "cudaStreamSynchronize",
        "cudaMemcpyAsync",
        "aten::item",
        "aten::nonzero",
        "cudaLaunchKernel",
    )
    return {e.key: e.count / 4 for e in averages if e.key in watched}


class Rates(Callback):
    """Throughput of the last epoch."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep what was logged."""
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        self.last = {n: v for n, v in logged.items() if "images_per" in n or "wait" in n}


def training(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images a second of a real training with a data loader, from 500-pixel JPEGs, and the share of waiting."""
    count = 32 if args.small else NUM_IMAGES
    rates_of: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder) / "train" / "all", count)
        for which in ("plain", "full"):
            rates = Rates()
            model = PPSSL(args.backbone, plugins=plugins(which), contrastive=MoCo(prefill="random"))
            trainer = Trainer(
                max_epochs=2,
                precision="bf16-mixed" if device.type == "cuda" else "32-true",
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=1,
                limit_val_batches=0,
                enable_checkpointing=False,
                enable_model_summary=False,
                default_root_dir=folder,
                callbacks=[rates],
                log_every_n_steps=50,
            )
            data = FolderDataModule(
                folder,
                image_size=args.image_size,
                batch_size=args.batch_size,
                num_workers=args.workers,
            )
            trainer.fit(model, data)
            rates_of[which] = rates.last
    return rates_of


def write_jpegs(folder: Path, count: int) -> None:
    """Photograph-like JPEGs of 500 x 375 pixels: noise of several scales."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(32):
        pixels = np.zeros((375, 500, 3))
        for scale in (2, 8, 32, 128):
            small = rng.uniform(0, 255, (-(-375 // scale), -(-500 // scale), 3)).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(small).resize((500, 375), Image.BICUBIC)) / 4
        kinds.append(Image.fromarray(pixels.astype(np.uint8)))
    with ThreadPool() as pool:
        pool.map(lambda i: kinds[i % 32].rotate(i % 7).save(folder / f"{i:05d}.jpg"), range(count))


if __name__ == "__main__":
    main()
