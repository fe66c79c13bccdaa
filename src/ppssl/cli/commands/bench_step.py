"""``ppssl bench step``: time a training step."""

from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from ppssl.studies.bench_step import bench_step
from ppssl.studies.peers import PEERS
from ppssl.studies.step_variants import DEFAULT_VARIANTS, VARIANTS, Precision
from ppssl.utils.errors import ArgumentError
from ppssl.utils.results import show_table, write_json

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Argument parser of the command."""
    step = ArgumentParser(
        description="Time a training step, its parts, and the same step of other libraries, on a GPU if there is one. "
        "Example: ppssl bench step --backbone resnet50 --batch-size 16 --image-size 224 --repeats 10 --json step.json",
        exit_on_error=False,
    )
    step.add_argument(
        "--backbone", type=str, default="resnet50", help="Name of a timm model, or `resnet_small`."
    )
    step.add_argument("--batch-size", type=int, default=16, help="Batch size.")
    step.add_argument("--image-size", type=int, default=224, help="Height and width in pixels.")
    step.add_argument("--repeats", type=int, default=10, help="Number of timed rounds.")
    step.add_argument(
        "--variants",
        type=str,
        nargs="*",
        default=None,
        help=f"Variants, such as `ais full` or `ais,full`, of: {'; '.join(VARIANTS)}. plain is always among them; "
        f"default: {', '.join(DEFAULT_VARIANTS)}.",
    )
    step.add_argument(
        "--peer",
        type=str,
        nargs="*",
        default=None,
        help=f"Other implementations of MoCo v2: {' and '.join(PEERS)}; `--peer` alone: none; default: lightly if "
        "it is installed.",
    )
    step.add_argument(
        "--channels-last-peers",
        action="store_true",
        help="Time the peers also in the memory format channels_last, which ours has.",
    )
    step.add_argument("--precision", type=Precision, default="32-true", help="Precision.")
    step.add_argument(
        "--queue-size", type=int, default=4096, help="Number of keys, rounded down to batches."
    )
    step.add_argument(
        "--steps",
        type=int | None,
        default=None,
        help="Steps per variant and round; default: 16 on a GPU, else 1.",
    )
    step.add_argument(
        "--memory",
        type=bool,
        default=True,
        help="Measure the peak memory, in a new process per variant.",
    )
    step.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    return step


def run(args: Namespace) -> int:
    """Run the benchmark, print a table and write JSON."""
    results = bench_step(
        args.backbone,
        args.batch_size,
        args.image_size,
        args.repeats,
        None if args.variants is None else _variant_names(args.variants),
        peers=args.peer,
        channels_last_peers=args.channels_last_peers,
        precision=args.precision,
        queue_size=args.queue_size,
        steps=args.steps,
        memory=args.memory,
    )
    title = f"{args.backbone}, batch {args.batch_size}, {args.image_size} pixels, {args.precision}"
    columns = ["step", "median ms", "min", "max", "images/s", "/ plain", "RSS MiB"]
    rows = [_row(results, name) for name in results["seconds"]]
    caption = f"{results['device']}; {args.json or 'all results: --json FILE'}"
    show_table(title, columns, rows, caption=caption)
    if args.json is not None:
        write_json(args.json, results)
    return 0


def _variant_names(words: Sequence[str]) -> list[str]:
    """Names of variants that are given as words, with commas between them, or as a list of YAML.

    Some names have a comma themselves: ``full, every 1``.
    """
    names: list[str] = []
    for word in words:
        if word.startswith("["):
            names += _listed(word)
            continue
        for part in filter(None, (part.strip() for part in word.split(","))):
            whole = f"{names[-1]}, {part}" if names else part
            if part not in VARIANTS and whole in VARIANTS:
                names[-1] = whole
            else:
                names.append(part)
    return names


def _listed(text: str) -> list[str]:
    try:
        return [str(name) for name in yaml.safe_load(text)]
    except yaml.YAMLError as error:
        raise ArgumentError(
            f"`variants` must be names such as `ais full`, or a list such as '[ais, full]', got {text!r}."
        ) from error


def _row(results: dict[str, Any], name: str) -> list[str]:
    seconds = results["seconds"][name]
    memory = results.get("max_rss_mib", {})
    return [
        name,
        *(f"{1000 * seconds[kind]:.0f}" for kind in ("median", "min", "max")),
        f"{results['images_per_second'][name]:.1f}",
        f"{results['ratios'].get(f'{name}/plain', 1.0):.2f}",
        f"{memory[name]:.0f}" if name in memory else "",
    ]
