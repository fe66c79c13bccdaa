"""``ppssl``: routes to LightningCLI or to a command, and turns errors into one line.

Exit codes: 0 done, 1 an error of ours, 2 bad input or a full disk, 130 interrupted, 143 terminated.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from ppssl.utils.errors import UserError, did_you_mean

__all__ = ["main", "run"]

TRAINER_COMMANDS = {
    "fit": "Pretrain an encoder, or train a classifier on one.",
    "validate": "Measure a checkpoint on the validation images.",
    "test": "Measure a checkpoint on the test images.",
    "predict": "Embed or classify images through a Trainer.",
}
COMMANDS = {
    "demo": "Pretrain on synthetic birds and compare before and after, in minutes.",
    "evaluate": "kNN, retrieval and linear probe of a checkpoint.",
    "embed": "Write the embeddings of all images to a Parquet file.",
    "neighbours": "The nearest images of an embedding file, as a picture.",
    "export": "Hand an encoder on, as timm, torchvision, transformers or ONNX read it.",
    "corpus": "Inspect a text corpus, or have one written by a language model.",
    "explain": "Show what an encoder looks at in your own images.",
    "ablate": "Run a grid of overrides times seeds over a recipe; table with paired differences.",
    "bench": "Measure what a training step costs, or what saliency maps show.",
}
USAGE = """usage: ppssl COMMAND [OPTIONS]

Self-supervised pretraining for classes that look alike.

{commands}

Each has --help; --debug shows where an error came from.
Example: ppssl fit --config ppssl:folder/pretrain --data.root path/to/images
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help"):
        listed = "\n".join(
            f"  {name:<10} {text}" for name, text in (TRAINER_COMMANDS | COMMANDS).items()
        )
        print(USAGE.format(commands=listed))
        return 0
    if args[0] == "--version":
        import ppssl

        print(f"ppssl {ppssl.__version__}")
        return 0
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        return _stopped(args[0], 130)
    except SystemExit as error:  # what Lightning makes of an interruption, and of SIGTERM
        if isinstance(error.__context__, KeyboardInterrupt):
            return _stopped(args[0], 130)
        if type(error).__name__ == "SIGTERMException":
            return _stopped(args[0], 143)
        raise
    except Exception as error:
        if debug:
            raise
        from ppssl.cli.messages import describe

        code, message = describe(error)
        if message is None:
            raise
        print(f"ppssl: {message}", file=sys.stderr)
        return code


def _stopped(command: str, code: int) -> int:
    goes_on = {
        "fit": "; `ppssl fit ... --resume auto` goes on from the last checkpoint",
        "embed": "; the same command goes on: what is embedded is kept",
        "corpus": "; the same command goes on: what is written of a class is kept",
        "ablate": "; the same command goes on: runs whose JSON is there are not repeated",
    }
    what = "Interrupted" if code == 130 else "Terminated"
    print(f"{what}{goes_on.get(command, '')}.", file=sys.stderr)
    return code


def _dispatch(args: list[str]) -> int:
    command, rest = args[0], args[1:]
    if command in TRAINER_COMMANDS:
        module = import_module("ppssl.cli.commands.trainer")
    elif command in COMMANDS:
        module = import_module(f"ppssl.cli.commands.{command}")
    else:
        hint = did_you_mean(command, TRAINER_COMMANDS | COMMANDS, "; see `ppssl --help`")
        raise UserError(f"No such command: {command}{hint}.")
    if command in TRAINER_COMMANDS:
        return module.main([command, *rest])
    return module.main(rest)


def run() -> None:
    """The entry point."""
    sys.exit(main())
