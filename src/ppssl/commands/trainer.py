"""``ppssl fit | validate | test | predict``: the Trainer's commands, by LightningCLI."""

from ppssl.recipes import PPSSLCLI

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
    PPSSLCLI(argv, EXAMPLES)
    return 0
