"""Entry point of ``ppssl``: dispatches to a command and prints user errors as one line.

Exit codes: 0 success, 1 internal error or lost process, 2 user error or full disk, 130 interrupted, 143 terminated.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from ppssl.utils.errors import UserError, did_you_mean
from ppssl.utils.paths import expand_arguments

__all__ = ["main", "run"]

TRAINER_COMMANDS = {
    "fit": "Pretrain an encoder, or train a classifier on one.",
    "validate": "Compute a checkpoint's metrics on the validation images.",
    "test": "Compute a checkpoint's metrics on the test images.",
    "predict": "Write the embeddings or the predicted classes of images, with a Trainer.",
}
COMMANDS = {
    "demo": "Pretrain on synthetic birds in minutes, and compare before and after.",
    "evaluate": "Compute kNN, retrieval and linear-probe metrics of a checkpoint.",
    "embed": "Write the embeddings of all images to a Parquet file.",
    "neighbours": "Find the nearest images in an embedding file, and draw them.",
    "report": "Make one page of a run, or of two side by side, to look at and pass on.",
    "duplicates": "Find images that are the same or nearly so, also across splits.",
    "doctor": "Look at machine, data and settings before a run, and try ten steps.",
    "export": "Export an encoder to timm, torchvision, transformers or ONNX.",
    "corpus": "Inspect a text corpus, or generate one with a language model.",
    "explain": "Draw saliency maps of an encoder for your own images.",
    "ablate": "Run the variants and seeds of a study, and compare them with paired differences.",
    "bench": "Time a training step, the data loader or an evaluation; compare saliency maps.",
}
USAGE = """usage: ppssl COMMAND [OPTIONS]

Self-supervised pretraining for fine-grained recognition.

{commands}

Every command has --help; --debug shows the traceback of an error; --import MODULE imports a module of yours first,
whose classes a checkpoint names.
Example: ppssl fit --config ppssl:folder/pretrain --data.root path/to/images
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = expand_arguments([arg for arg in args if arg != "--debug"])
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
    begun = False
    try:
        args = _import_modules(args) or ["--help"]
        command = _load_command(args)
        begun = True
        return command()
    except (KeyboardInterrupt, SystemExit) as error:
        code = _interruption_code(error)
        if code is None:
            raise
        return _report_interruption(
            args[0] if begun and _can_continue(args[0], error) else "", code
        )
    except Exception as error:
        if debug:
            raise
        from ppssl.studies.error_messages import describe_error

        code, message = describe_error(error)
        if message is None:
            raise
        print(f"ppssl: {message}", file=sys.stderr)
        return code


def _import_modules(args: Sequence[str]) -> list[str]:
    """Import the modules that ``--import`` names; returns the other arguments."""
    others: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        option, _, name = arg.partition("=")
        if option != "--import":
            others.append(arg)
            continue
        name = name or next(remaining, "")
        try:
            import_module(name)
        except (ImportError, ValueError, TypeError) as error:
            raise UserError(
                f"`--import {name}`: {error}. Give a module that is in this folder or installed."
            ) from error
    return others


def _interruption_code(error: BaseException) -> int | None:
    """Exit code of an interruption, by Ctrl-C or SIGTERM; ``None`` for another exit."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits after an interruption
        return 130
    if type(error).__name__ == "SIGTERMException" or getattr(error, "code", None) == 143:
        return 143
    return None


def _can_continue(command: str, error: BaseException) -> bool:
    """Whether a command had something to continue when it was interrupted: of ``fit``, if the training had begun."""
    frames = traceback.walk_tb(error.__traceback__)
    return command != "fit" or any(frame.f_code.co_name == "fit" for frame, _ in frames)


def _report_interruption(command: str, code: int) -> int:
    """Print that a command was interrupted and how to continue it, if it is named; returns the exit code."""
    continuation = {
        "fit": "; `ppssl fit ... --resume auto` continues from the last checkpoint",
        "embed": "; the same command continues: finished embeddings are kept",
        "corpus": "; the same command continues: finished classes are kept",
        "ablate": "; the same command continues: finished runs are kept",
    }
    event = "Interrupted" if code == 130 else "Terminated"
    print(f"{event}{continuation.get(command, '')}.", file=sys.stderr)
    return code


def _load_command(args: list[str]) -> Callable[[], int]:
    """Import the command that the first argument names; returns what runs it."""
    command, rest = args[0], args[1:]
    if command in TRAINER_COMMANDS:
        module = import_module("ppssl.cli.commands.trainer")
    elif command in COMMANDS:
        module = import_module(f"ppssl.cli.commands.{command}")
    else:
        hint = did_you_mean(command, TRAINER_COMMANDS | COMMANDS, "; see `ppssl --help`")
        raise UserError(f"No such command: {command}{hint}.")
    return partial(module.main, [command, *rest] if command in TRAINER_COMMANDS else rest)


def run() -> None:
    """Entry point of the console script; modules in the working folder can be named, as with ``python -m``."""
    sys.path.append(os.getcwd())  # last: it hides no installed package
    sys.exit(main())
