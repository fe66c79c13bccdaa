"""``ppssl bench``: time a training step, the data loader or an evaluation, or compare saliency maps."""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser

from ppssl.cli.arguments import check_separate, expand_data_recipe
from ppssl.cli.commands import bench_evaluate, bench_loader, bench_saliency, bench_step
from ppssl.utils.paths import writable_figure, writable_file, writable_folder

__all__ = ["main"]

_BENCHMARKS = {
    "step": bench_step,
    "loader": bench_loader,
    "evaluate": bench_evaluate,
    "saliency": bench_saliency,
}
_OUTPUTS: dict[str, Callable[[str], Path]] = {
    "json": writable_file,
    "picture": writable_figure,
    "out": writable_folder,
}


def main(argv: list[str]) -> int:
    """Run one of the benchmarks."""
    parser = ArgumentParser(
        prog="ppssl bench",
        description="Time a training step, the data loader or an evaluation, or compare saliency maps. "
        "Example: ppssl bench step --backbone resnet50 --batch-size 16",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True)
    parsers = {name: module.parser() for name, module in _BENCHMARKS.items()}
    for name, subparser in parsers.items():
        commands.add_subcommand(name, subparser)
    args = parser.parse_args(bench_loader.with_default_data(expand_data_recipe(argv)))
    name = args.subcommand
    for option, check in _OUTPUTS.items():
        if args[name].get(option) is not None:
            check(args[name][option])
    check_separate(args[name], ["json", "picture"])
    return _BENCHMARKS[name].run(parsers[name].instantiate(args[name]))
