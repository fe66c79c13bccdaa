"""What a GPU does: steps a second of ours, lightly and plain torch, waiting for data, synchronisations; in ten minutes.

``python experiments/bench/gpu.py --out runs/gpu`` needs one NVIDIA GPU; JSON and the profiler's table go to ``--out``.
With ``--small`` it runs anywhere in a minute, to see that it runs.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ppssl import PPSSL, FolderDataModule, MoCo
from ppssl.studies.bench_loader.photographs import write_photographs
from ppssl.studies.bench_step import bench_step
from ppssl.studies.step_variants import VARIANTS, StepSettings, installed_peers, make_step
from ppssl.studies.timing import synchronize
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
    for name, part in (("steps", steps), ("training", training), ("profile", profile)):
        started = time.perf_counter()
        results[name] = part(args, device)
        results[f"{name}_took"] = time.perf_counter() - started
        write_json(args.out / "gpu.json", results)
        print(name, results[name], flush=True)  # noqa: T201


def settings(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What the steps of all implementations have in common."""
    return {
        "backbone": args.backbone,
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "precision": "bf16-mixed" if device.type == "cuda" else "32-true",
        "queue_size": 64 if args.small else QUEUE,
    }


def steps(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images a second of each variant, the median of rounds in which all have their turn."""
    results = bench_step(
        **settings(args, device),
        repeats=1 if args.small else 3,
        variants=["plain", "full", "plain, frozen", "full, frozen"],
        peers=[*installed_peers(), "torch"],
        channels_last_peers=True,
        memory=False,
    )
    return {name: results[name] for name in ("images_per_second", "ratios", "seconds")}


def profile(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Kernels, copies and synchronisations in four steps of ours, full; the table goes to a file."""
    step = make_step("full", StepSettings(**settings(args, device)))
    for number in range(4):
        step.run(number)
    synchronize(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace:
        for number in range(4):
            step.run(number)
        synchronize(device)
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
        write_photographs(Path(folder) / "train" / "all", count)
        for which in ("plain", "full"):
            rates = Rates()
            plugins = VARIANTS[which].plugins()
            model = PPSSL(args.backbone, plugins=plugins, contrastive=MoCo(prefill="random"))
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


if __name__ == "__main__":
    main()
