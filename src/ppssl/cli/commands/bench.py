"""``ppssl bench``: what a training step costs, and what saliency maps show."""

from jsonargparse import ArgumentParser

from ppssl.cli.arguments import data_section
from ppssl.cli.commands import bench_saliency, bench_step

__all__ = ["main"]

_MEASUREMENTS = {"step": bench_step, "saliency": bench_saliency}


def main(argv: list[str]) -> int:
    """Parse and run one of the measurements."""
    parser = ArgumentParser(prog="ppssl bench", description="Measure.", exit_on_error=False)
    commands = parser.add_subcommands(required=True)
    parsers = {name: module.parser() for name, module in _MEASUREMENTS.items()}
    for name, own in parsers.items():
        commands.add_subcommand(name, own)
    args = parser.parse_args(data_section(argv))
    chosen = args.subcommand
    return _MEASUREMENTS[chosen].run(parsers[chosen].instantiate(args[chosen]))
