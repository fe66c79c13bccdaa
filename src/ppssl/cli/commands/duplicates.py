"""``ppssl duplicates CHECKPOINT``: images that are the same or nearly so, also across splits."""

from dataclasses import asdict

from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from ppssl.cli.arguments import (
    add_checkpoint,
    add_data,
    add_device,
    check_separate,
    expand_data_recipe,
    load_data,
)
from ppssl.inference.duplicates import LocatedImage, LocatedPair
from ppssl.reports.duplicates_page import duplicates
from ppssl.utils.paths import writable_file
from ppssl.utils.results import provenance, show_table, write_json

__all__ = ["main"]

SHOWN = 50
"""Rows of the table."""


def main(argv: list[str]) -> int:
    """Find the pairs, print a table, and write page and JSON."""
    parser = _parser()
    args = parser.parse_args(expand_data_recipe(argv))
    for file in (args.out, args.json):
        if file is not None:
            writable_file(file)
    check_separate(args, ["out", "json"], ["checkpoint"])
    seed_everything(0, verbose=False)
    data = load_data(parser, args, args.checkpoint)
    pairs = duplicates(args.checkpoint, data, out=args.out, device=args.device)
    _show(pairs, args.out)
    if args.json is not None:
        rows = [
            asdict(pair) | {"crosses": pair.crosses, "two_labels": pair.two_labels}
            for pair in pairs
        ]
        content = {"schema_version": 1, "pairs": rows, "provenance": provenance()}
        write_json(args.json, content)
    return 0


def _show(pairs: list[LocatedPair], out: str | None) -> None:
    exact, crossing = sum(p.exact for p in pairs), sum(p.crosses for p in pairs)
    labels = sum(pair.two_labels for pair in pairs)
    title = (
        f"{exact} pairs of equal images, {len(pairs) - exact} of nearly equal ones; {crossing} in two splits, "
        f"{labels} with two labels"
    )
    rows = [
        [
            "equal" if pair.exact else "near",
            _text(pair.first),
            _text(pair.second),
            f"{pair.similarity:.4f}",
        ]
        for pair in pairs[:SHOWN]
    ]
    rest = f"{len(pairs) - SHOWN} more: --json FILE has all. " if len(pairs) > SHOWN else ""
    page = "" if out is None else f"Page: {out}"
    show_table(title, ["", "image", "again", "similarity"], rows, caption=f"{rest}{page}")


def _text(image: LocatedImage) -> str:
    return f"{image.split}, {image.class_name or '-'}: {image.name}"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ppssl duplicates",
        description="Find images of a data set that are the same or nearly so, also across splits: equal files by "
        "their hash, nearly equal images by embedding, confirmed by pixels. "
        "Example: ppssl duplicates last.ckpt --out duplicates.html",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    add_data(parser)
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Draw the pairs to this file (.html), which needs no network.",
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the pairs to this file."
    )
    add_device(parser)
    return parser
