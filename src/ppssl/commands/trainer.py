"""``ppssl fit | validate | test | predict``: LightningCLI over :class:`ppssl.PPSSL` and the data modules."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from ppssl.commands.arguments import resolve_recipes
from ppssl.data.base import FineGrainedDataModule
from ppssl.module import PPSSL
from ppssl.recipes import BASE, recipe_path
from ppssl.resume import newest_checkpoint

__all__ = ["PPSSLCLI", "main"]

EXAMPLES = {
    "fit": "ppssl fit --config ppssl:folder/pretrain --data.root path/to/images --trainer.max_epochs 30",
    "validate": "ppssl validate --config ppssl:folder/pretrain --data.root path/to/images --ckpt_path last.ckpt",
    "test": "ppssl test --config ppssl:folder/pretrain --data.root path/to/images --ckpt_path last.ckpt",
    "predict": "ppssl predict --config ppssl:folder/pretrain --data.root path/to/images --ckpt_path last.ckpt",
}


class PPSSLCLI(LightningCLI):
    """LightningCLI with the base recipe as defaults, a checkpoint each epoch, and ``--resume auto``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options that are not the Trainer's, the model's or the data's."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.save_last": True,
                "checkpoint.save_on_exception": True,
                "checkpoint.enable_version_counter": False,
                "checkpoint.filename": "{epoch}-{step}",
            }
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="`auto`: go on from the readable checkpoint with the highest step below trainer.default_root_dir; "
            "or a checkpoint.",
        )

    def before_fit(self) -> None:
        """Choose the checkpoint to go on from."""
        resume = self.config_init["fit"]["resume"]
        if resume is None:
            return
        root = Path(self.trainer.default_root_dir)
        path = newest_checkpoint(root) if resume == "auto" else Path(resume)
        rank_zero_info(f"Resuming from {path}." if path else f"Nothing to resume in {root}: starting anew.")
        self.config_init["fit"]["ckpt_path"] = None if path is None else str(path)

    def after_fit(self) -> None:
        """Say where the result lies."""
        path = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
        if path:
            rank_zero_info(f"Checkpoint: {path}")


def main(argv: list[str]) -> int:
    """Run one of the Trainer's commands; returns the exit code."""
    defaults: dict[str, Any] = {"exit_on_error": False, "default_config_files": [recipe_path(BASE)]}
    cli = PPSSLCLI(
        PPSSL,
        FineGrainedDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"exit_on_error": False}
        | {name: defaults | {"description": f"Example: {example}"} for name, example in EXAMPLES.items()},
        args=resolve_recipes(argv),
    )
    return 130 if cli.trainer.interrupted else 0
