"""``ppssl demo``: pretrain on synthetic birds, compare before and after."""

from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ppssl.cli.arguments import split_overrides
from ppssl.evaluation.evaluate import HEADLINES
from ppssl.studies.demo import demo
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the demonstration and print its table."""
    parser = ArgumentParser(
        prog="ppssl demo",
        description="Pretrain a small encoder with AIS and IADM on synthetic birds, in minutes and without network, "
        "and compare it with its initial weights. Example: ppssl demo --out runs/demo",
        exit_on_error=False,
    )
    parser.add_argument(
        "--out",
        type=str,
        default="runs/demo",
        help="Folder for checkpoint, logs, results.json and saliency.png.",
    )
    parser.add_argument("--seed", type=int, default=0, help="The run's seed.")
    overrides, rest = split_overrides(argv)
    args = parser.parse_args(rest)
    demo(args.out, seed=args.seed, overrides=overrides, show=partial(_show, args))
    return 0


def _show(args: Namespace, content: dict[str, Any]) -> None:
    """Print the table, and where everything is."""
    before, after = content["before"]["metrics"], content["after"]["metrics"]
    rows = [
        [
            name,
            f"{100 * before[name]:.1f}",
            f"{100 * after[name]:.1f}",
            f"{100 * (after[name] - before[name]):+.1f}",
        ]
        for name in HEADLINES
        if name in before
    ]
    show_table(
        f"Synthetic birds, percent, seed {args.seed}",
        ["metric", "before", "after", "gain"],
        rows,
        caption=f"checkpoint: {content['checkpoint']}\nresults:    {Path(args.out) / 'results.json'}\n"
        f"what IADM sees: {Path(args.out) / 'saliency.png'}",
    )
