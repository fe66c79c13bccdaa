"""``ppssl bench step``: time a training step."""

from jsonargparse import ArgumentParser, Namespace

from ppssl.studies.bench_step import VARIANTS, bench_step
from ppssl.utils.results import show_table, write_json

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Argument parser of the command."""
    step = ArgumentParser(
        description="Time a training step and its parts. Example: ppssl bench step --backbone resnet50 --batch-size 16 "
        "--image-size 224 --repeats 10 --json step.json",
        exit_on_error=False,
    )
    step.add_argument(
        "--backbone", type=str, default="resnet50", help="Name of a timm model, or `resnet_small`."
    )
    step.add_argument("--batch-size", type=int, default=16, help="Batch size.")
    step.add_argument("--image-size", type=int, default=224, help="Height and width in pixels.")
    step.add_argument("--repeats", type=int, default=10, help="Number of timed steps per variant.")
    step.add_argument(
        "--variants",
        type=list[str] | None,
        default=None,
        help=f"Variants besides plain, such as '[ais, full]'; default: all of {', '.join(VARIANTS)}.",
    )
    step.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    return step


def run(args: Namespace) -> int:
    """Run the benchmark, print a table and write JSON."""
    results = bench_step(
        args.backbone, args.batch_size, args.image_size, args.repeats, args.variants
    )
    if args.json is not None:
        write_json(args.json, results)
    rows = [
        [
            name,
            *(f"{1000 * seconds[kind]:.0f}" for kind in ("median", "min", "max")),
            f"{results['ratios'].get(f'{name}/plain', 1.0):.2f}",
            f"{results['max_rss_mib'][name]:.0f}",
        ]
        for name, seconds in results["seconds"].items()
    ]
    title = f"{args.backbone}, batch {args.batch_size}, {args.image_size} pixels"
    show_table(title, ["step", "median ms", "min", "max", "/ plain", "max RSS MiB"], rows)
    return 0
