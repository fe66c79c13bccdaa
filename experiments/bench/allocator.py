"""What a training step on a CPU costs where freed memory is kept, and where glibc gives it back; processor seconds.

``python -m experiments.bench.allocator --backbone tf_efficientnet_lite0`` takes one thread and a minute.
"""

import argparse
import resource
import subprocess
import sys

import timm
import torch

from ppssl.utils.allocator import keep_freed_memory
from ppssl.utils.results import show_table


def main() -> None:
    """Run both in processes of their own, several times in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--measure", choices=["given back", "kept"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(*measure(args))  # noqa: T201
        return
    rows = []
    for _ in range(args.repeats):
        for memory in ("given back", "kept"):
            command = [sys.executable, "-m", "experiments.bench.allocator", *sys.argv[1:]]
            out = subprocess.run([*command, "--measure", memory], check=True, capture_output=True)
            rows.append([memory, *out.stdout.decode().split()])
    columns = ["freed memory", "user [s]", "system [s]", "peak [MiB]"]
    show_table(f"{args.steps} steps of {args.backbone}, one thread", columns, rows)


def measure(args: argparse.Namespace) -> tuple[str, str, int]:
    """User and system seconds of the steps after the first, and the peak of the memory."""
    if args.measure == "kept" and not keep_freed_memory():
        raise SystemExit("Here freed memory cannot be kept: no glibc, or MALLOC_... is set.")
    torch.set_num_threads(1)
    model = timm.create_model(args.backbone)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(args.steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return f"{user:.1f}", f"{system:.1f}", after.ru_maxrss // 1024


if __name__ == "__main__":
    main()
