"""``ppssl doctor``: look at machine, installation, data and settings, and try a few steps, before a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.markup import escape

from ppssl.cli.arguments import check_separate, split_overrides
from ppssl.diagnosis.doctor import doctor
from ppssl.diagnosis.finding import Finding, Level
from ppssl.diagnosis.replay import replay
from ppssl.utils.paths import writable_file
from ppssl.utils.results import write_json

__all__ = ["main"]

_LOOKS: dict[Level, tuple[str, str, str]] = {
    "ok": ("✔", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "problem": ("✘", "x", "red"),
}
"""Symbol of each level, that of terminals without Unicode, and colour."""


def main(argv: list[str]) -> int:
    """Print what is found; returns 0, 1 with warnings or 2 with problems."""
    overrides, own = split_overrides([*_without_resuming(argv)], "checkpoint", "seed_everything")
    args = _parser().parse_args(own)
    if args.json is not None:
        writable_file(args.json)
        check_separate(args, ["json"], ["config", "embeddings", "replay"])
    if args.replay is not None:
        return _replay(args.replay, args.json)
    configs = args.config or []
    if len(configs) > 1:
        overrides = [*(f"--config={path}" for path in configs[1:]), *overrides]
    diagnosis = doctor(
        configs[0] if configs else None,
        overrides,
        images=args.images or None,
        steps=args.steps,
        embeddings=args.embeddings,
    )
    _show(diagnosis.findings)
    if args.json is not None:
        write_json(args.json, diagnosis.to_dict())
    return diagnosis.exit_code


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ppssl doctor",
        description="Look at machine and installation; with a recipe or its options also at the data and the settings, "
        "and try ten steps of the run. Each line is ok, a warning or a problem, with what to do; the exit code is 0, 1 "
        "or 2. Example: ppssl doctor --config ppssl:folder/pretrain --data.root path/to/images",
        exit_on_error=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        type=str,
        action="append",
        help="Recipe of the run; its options can be given as for `ppssl fit`, such as --data.root. Default with such "
        "options: ppssl:folder/pretrain.",
    )
    parser.add_argument(
        "--images", type=int, default=1000, help="Images that are decoded, evenly spaced; 0: all."
    )
    parser.add_argument("--steps", type=int, default=10, help="Steps that are timed; 0: no trial.")
    parser.add_argument(
        "--embeddings",
        type=str | None,
        default=None,
        help="The .parquet file of `ppssl embed` of the data set, to find labels that look wrong.",
    )
    parser.add_argument(
        "--replay",
        type=str | None,
        default=None,
        help="The record of a step whose loss was not finite (not_finite-step=....json): repeat it, and find term, "
        "layer and image; nothing else is looked at. The exit code is 0 if the step has the same values again, else 1.",
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the findings to this file."
    )
    return parser


def _replay(record: str, json_file: str | None) -> int:
    """Repeat a step, and print where its loss is not finite; returns 0 if it has the values of the run, else 1."""
    found = replay(record)
    for what, value in found.lines().items():
        Console().print(f"{escape(what)}: {escape(value)}", soft_wrap=True, highlight=False)
    if json_file is not None:
        write_json(json_file, asdict(found))
    return 0 if found.same else 1


def _without_resuming(argv: Sequence[str]) -> Iterator[str]:
    """The arguments without those of `ppssl fit` that name a checkpoint to resume from."""
    remaining = iter(argv)
    for arg in remaining:
        option, equals, _ = arg.partition("=")
        if option not in ("--resume", "--ckpt_path"):
            yield arg
            continue
        if not equals:
            next(remaining, None)
        rank_zero_info(f"`{option}` is passed over: the run is looked at as a new one.")


def _show(findings: Mapping[str, Sequence[Finding]]) -> None:
    console = Console()
    for area, found in findings.items():
        console.print(f"[bold]{area.capitalize()}[/bold]")
        for finding in found:
            symbol, plain, colour = _LOOKS[finding.level]
            mark = f"{plain if console.options.ascii_only else symbol} {finding.level}"
            line = (
                f"  [{colour}]{mark:<10}[/{colour}] {escape(finding.what)}: {escape(finding.value)}"
            )
            console.print(line, soft_wrap=True, highlight=False)
            if finding.advice:
                text = f"             -> {escape(finding.advice)}"
                console.print(text, soft_wrap=True, highlight=False)
