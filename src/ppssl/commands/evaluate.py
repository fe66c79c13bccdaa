"""``ppssl evaluate CKPT``: kNN, retrieval and linear probe of a checkpoint."""

from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from ppssl.commands.arguments import (
    add_checkpoint,
    add_data,
    add_device,
    add_feature,
    add_seed,
    data_section,
    given_data,
)
from ppssl.downstream.evaluate import evaluate
from ppssl.results import Results, show_table, write_json

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Parse, measure, print a table, write JSON."""
    parser = ArgumentParser(
        prog="ppssl evaluate",
        description="Measure a checkpoint's encoder: kNN, linear probe and retrieval on the test images. "
        "Example: ppssl evaluate last.ckpt --data experiments/folder/pretrain.yaml --data.root path/to/images",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    add_data(parser)
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    add_feature(parser)
    add_device(parser)
    add_seed(parser)
    args = parser.parse_args(data_section(argv))
    seed_everything(args.seed, verbose=False)
    data = given_data(parser, args, args.checkpoint)
    results = evaluate(args.checkpoint, data, feature=args.feature, device=args.device)
    if args.json is not None:
        write_json(args.json, results.to_dict())
    rows = [_row(results, name) for name in results.metrics]
    title = results.protocol + (", feature branch" if args.feature == "branch" else "")
    show_table(title, ["metric", "value", "95 % interval"], rows, caption=args.checkpoint)
    return 0


def _row(results: Results, name: str) -> list[str]:
    value, unit = results.metrics[name], results.units[name]
    text = f"{100 * value:.1f} %" if unit == "fraction" else f"{value:.1f} {unit}"
    low, high = results.intervals.get(name, (None, None))
    return [name, text, "" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"]
