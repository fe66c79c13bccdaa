"""``ppssl evaluate CKPT``: kNN, retrieval and linear probe of a checkpoint."""

from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from ppssl.commands.arguments import data_section, given_data
from ppssl.data.base import FineGrainedDataModule
from ppssl.downstream.evaluate import evaluate
from ppssl.results import show_table, write_json

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Parse, measure, print a table, write JSON."""
    parser = ArgumentParser(
        prog="ppssl evaluate",
        description="Measure a checkpoint's encoder: kNN, linear probe and retrieval on the test images. "
        "Example: ppssl evaluate last.ckpt --data experiments/folder/pretrain.yaml --data.root path/to/images",
        exit_on_error=False,
    )
    parser.add_argument("checkpoint", type=str, help="A checkpoint of `ppssl fit`.")
    parser.add_subclass_arguments(
        FineGrainedDataModule,
        "data",
        required=False,
        help="A recipe; default: the checkpoint's own data set.",
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="`cpu`, `cuda`, ...; default: a GPU if there is one.",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="For splits, where the data set states none."
    )
    args = parser.parse_args(data_section(argv))
    seed_everything(args.seed, verbose=False)
    data = given_data(parser, args, args.checkpoint)
    results = evaluate(args.checkpoint, data, device=args.device)
    if args.json is not None:
        write_json(args.json, results.to_dict())
    rows = [[name, _text(value, results.units[name])] for name, value in results.metrics.items()]
    show_table(results.protocol, ["metric", "value"], rows, caption=args.checkpoint)
    return 0


def _text(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "fraction" else f"{value:.1f} {unit}"
