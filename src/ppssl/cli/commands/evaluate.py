"""``ppssl evaluate CKPT``: kNN, retrieval and linear-probe metrics of a checkpoint or an embedding file."""

import math
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import seed_everything

from ppssl.callbacks.start_and_end import training_line
from ppssl.checkpointing.files import read_checkpoint
from ppssl.cli.arguments import (
    add_checkpoint,
    add_data,
    add_device,
    add_feature,
    add_seed,
    check_separate,
    expand_data_recipe,
    load_data,
)
from ppssl.evaluation import lcr_protocol
from ppssl.evaluation.evaluate import PROTOCOL, evaluate
from ppssl.evaluation.evaluate_rows import Row, evaluate_rows
from ppssl.inference.data_set import is_embedding_file
from ppssl.utils.errors import UserError
from ppssl.utils.paths import writable_file
from ppssl.utils.results import Results, show_table, write_json

__all__ = ["main"]

Protocol = Literal["clean-1", "lcr-2023"]
COLUMNS = ("knn-1", "knn-5", "knn-20", "linear", "rank-1", "mAP")
"""Metrics of the table with several rows, which fits in 80 characters."""


def main(argv: list[str]) -> int:
    """Evaluate, print a table and write JSON."""
    parser = _parser()
    args = parser.parse_args(expand_data_recipe(argv))
    if args.json is not None:
        writable_file(args.json)
        check_separate(args, ["json"], ["checkpoint"])
    seed_everything(args.seed, verbose=False)
    options = {"feature": args.feature, "device": args.device}
    several_rows = args.label_fraction or args.random or args.imagenet
    if args.protocol == lcr_protocol.PROTOCOL:
        if several_rows:
            raise UserError(
                f"`{lcr_protocol.PROTOCOL}` has one row: remove `--label-fraction`, `--random` and `--imagenet`."
            )
        paths = lcr_protocol.checkpoints_of(args.checkpoint)
        data = load_data(parser, args, str(paths[-1]))
        _show(lcr_protocol.evaluate_lcr(paths, data, **options), args)
    elif several_rows:
        rows = evaluate_rows(
            args.checkpoint,
            _data(parser, args),
            label_fractions=args.label_fraction or None,
            random=args.random,
            imagenet=args.imagenet,
            **options,
        )
        _show_rows(rows, args)
    else:
        _show(evaluate(args.checkpoint, _data(parser, args), **options), args)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ppssl evaluate",
        description="Compute kNN, linear-probe and retrieval metrics of an encoder on the test images. "
        "Example: ppssl evaluate last.ckpt --data experiments/folder/pretrain.yaml --data.root path/to/images",
        exit_on_error=False,
    )
    add_checkpoint(
        parser,
        "A checkpoint of `ppssl fit`, or a .parquet file of `ppssl embed`; for lcr-2023 a checkpoint or a folder.",
    )
    add_data(parser)
    parser.add_argument(
        "--label-fraction",
        type=float,
        nargs="+",
        default=[],
        help="Fractions of the labels, one row each, such as 1 0.5 0.2.",
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="Add a row of the same architecture with random weights.",
    )
    parser.add_argument(
        "--imagenet",
        type=bool | str,
        default=False,
        help="Add a row of the same architecture with timm's weights: `true`, or a local file.",
    )
    parser.add_argument(
        "--protocol",
        type=Protocol,
        default=PROTOCOL,
        help="`lcr-2023`: the protocol of LCR, which selects on the test images (marked in the table).",
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    add_feature(parser)
    add_device(parser)
    add_seed(parser)
    return parser


def _data(parser: ArgumentParser, args: Namespace) -> Any:
    """Data module of the evaluation; ``None`` for an embedding file."""
    if not is_embedding_file(args.checkpoint):
        return load_data(parser, args, args.checkpoint)
    if args.get("data"):
        raise UserError("An embedding file has its own labels: remove `--data`.")
    return None


def _show(results: Results, args: Namespace) -> None:
    rows = [_row(results, name) for name in results.metrics]
    title = results.protocol + (", feature branch" if args.feature == "branch" else "")
    caption = args.checkpoint
    if Path(args.checkpoint).suffix == ".ckpt":
        caption = f"{caption}\n{training_line(read_checkpoint(args.checkpoint))}".strip()
    show_table(title, ["metric", "value", "95 % interval"], rows, caption=caption)
    if args.json is not None:
        write_json(args.json, results.to_dict())


def _row(results: Results, name: str) -> list[str]:
    value, unit = results.metrics[name], results.units[name]
    if math.isnan(value):
        return [name, "-", ""]
    text = f"{100 * value:.1f} %" if unit == "fraction" else f"{value:.1f} {unit}"
    if name not in results.intervals:
        return [name, text, ""]
    low, high = results.intervals[name]
    return [name, text, f"{100 * low:.1f} to {100 * high:.1f}"]


def _percent(value: float | None) -> str:
    """A cell in percent; a dash where the metric is left out or not defined."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _show_rows(rows: list[Row], args: Namespace) -> None:
    cells = [
        [row.encoder, f"{100 * row.label_fraction:g} %"]
        + [_percent(row.results.metrics.get(name)) for name in COLUMNS]
        for row in rows
    ]
    title = f"{PROTOCOL}, percent" + (", feature branch" if args.feature == "branch" else "")
    show_table(title, ["encoder", "labels", *COLUMNS], cells, caption=args.checkpoint)
    if args.json is not None:
        write_json(args.json, {"rows": [row.to_dict() for row in rows]})
