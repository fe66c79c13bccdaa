"""``ppssl report RUN``: one page that shows a run, or two runs side by side, and needs no network."""

from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import seed_everything
from rich.console import Console

from ppssl.cli.arguments import (
    add_data,
    add_device,
    add_seed,
    check_separate,
    expand_data_recipe,
    load_data,
)
from ppssl.reports.page import report
from ppssl.reports.run import find_checkpoint
from ppssl.utils.errors import UserError
from ppssl.utils.paths import writable_file

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Make the page, and say where it is."""
    parser = _parser()
    args = parser.parse_args(expand_data_recipe(argv))
    writable_file(args.out)
    check_separate(args, ["out"], ["runs"])
    if len(args.runs) > 2:
        raise UserError(f"A page shows one run or two, got {len(args.runs)}.")
    seed_everything(args.seed, verbose=False)
    checkpoints = [str(find_checkpoint(run)) for run in args.runs]
    data = [_data_of(parser, args, checkpoint) for checkpoint in checkpoints]
    path = report(args.runs, data, out=args.out, device=args.device)
    size = path.stat().st_size / 1e6
    Console().print(
        f"Report: {path} ({size:.1f} MB, needs no network)", soft_wrap=True, markup=False
    )
    return 0


def _data_of(parser: ArgumentParser, args: Namespace, checkpoint: str) -> Any:
    """The data set of a run; of two runs an error names the checkpoint."""
    try:
        return load_data(parser, args, checkpoint)
    except UserError as error:
        if len(args.runs) == 1 or checkpoint in str(error):
            raise
        raise UserError(f"{checkpoint}: {error}") from error


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ppssl report",
        description="Make one page of a run to look at and to pass on: what was trained, results before and after, "
        "learning curves, nearest neighbours, confused classes, a map of the embedding, saliency maps, "
        "duplicates, settings. Two runs are shown side by side. "
        "Example: ppssl report runs/demo --out report.html",
        exit_on_error=False,
    )
    parser.add_argument(
        "runs", type=str, nargs="+", help="One or two runs: folders of runs, or checkpoints."
    )
    add_data(parser)
    parser.add_argument(
        "--out",
        type=str,
        default="report.html",
        help="Write the page to this file; it is one file that opens from the disk.",
    )
    add_device(parser)
    add_seed(parser)
    return parser
