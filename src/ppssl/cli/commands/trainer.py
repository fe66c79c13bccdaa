"""``ppssl fit | validate | test | predict``: the Trainer's commands of LightningCLI."""

import threading
from typing import Any

from ppssl.checkpointing.atomic import is_full
from ppssl.studies.lightning_cli import PPSSLCLI

__all__ = ["main"]

_OPTIONS = "--config ppssl:folder/pretrain --data.root path/to/images"
EXAMPLES = {
    "fit": f"ppssl fit {_OPTIONS} --trainer.max_epochs 30",
    "validate": f"ppssl validate {_OPTIONS} --ckpt_path last.ckpt",
    "test": f"ppssl test {_OPTIONS} --ckpt_path last.ckpt",
    "predict": f"ppssl predict {_OPTIONS} --ckpt_path last.ckpt",
}


def main(argv: list[str]) -> int:
    """Run one of the Trainer's commands; returns the exit code."""
    previous_hook = threading.excepthook

    def ignore_full_disk(args: Any) -> None:
        """Ignore a full disk in TensorBoard's thread: the run ends with its own error message."""
        if not is_full(args.exc_value):
            previous_hook(args)

    threading.excepthook = ignore_full_disk
    try:
        PPSSLCLI(argv, EXAMPLES)
    finally:
        threading.excepthook = previous_hook
    return 0
