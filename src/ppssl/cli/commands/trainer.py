"""``ppssl fit | validate | test | predict``: the Trainer's commands, by LightningCLI."""

import threading
from typing import Any

from ppssl.checkpointing.atomic import is_full
from ppssl.studies.recipes import PPSSLCLI

__all__ = ["main"]

_WITH = "--config ppssl:folder/pretrain --data.root path/to/images"
EXAMPLES = {
    "fit": f"ppssl fit {_WITH} --trainer.max_epochs 30",
    "validate": f"ppssl validate {_WITH} --ckpt_path last.ckpt",
    "test": f"ppssl test {_WITH} --ckpt_path last.ckpt",
    "predict": f"ppssl predict {_WITH} --ckpt_path last.ckpt",
}


def main(argv: list[str]) -> int:
    """Run one of the Trainer's commands; returns the exit code."""
    before = threading.excepthook

    def unless_full(args: Any) -> None:
        """TensorBoard writes in a thread: the run ends with its error, which one line says."""
        if not is_full(args.exc_value):
            before(args)

    threading.excepthook = unless_full
    try:
        PPSSLCLI(argv, EXAMPLES)
    finally:
        threading.excepthook = before
    return 0
