"""LightningCLI of ppssl: Trainer, model and data module from a recipe (:mod:`ppssl.utils.recipes`) and overrides."""

import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from ppssl.checkpointing.atomic import AtomicCheckpointIO, newest_checkpoint, remove_unfinished
from ppssl.checkpointing.metrics_csv import keep_metrics
from ppssl.checkpointing.run_checkpoint import RunCheckpoint
from ppssl.inference.predictions import PredictionWriter
from ppssl.studies.class_options import with_own_defaults
from ppssl.studies.command_checks import (
    check_checkpoint,
    expand_class_name,
    refuse_nulls,
    require_weights,
    trainer_options,
)
from ppssl.studies.command_parser import CommandParser, RecipeParser
from ppssl.utils.allocator import keep_freed_memory
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand, expand_config, writable_folder
from ppssl.utils.recipes import BASE_RECIPE, read_yaml, recipe_path

__all__ = [
    "PLUGINS",
    "PPSSLCLI",
    "add_plugins",
    "build_recipe",
    "replace_values",
]

PLUGINS = {
    "ais": "ppssl.AIS",
    "iadm": "ppssl.IADM",
    "distillation": "ppssl.Distillation",
    "anchor": "ppssl.Anchor",
}
"""Class paths of the package's plugins, by the name of their command line options (``--model.plugins.<name>``)."""

_PLUGIN_OPTION = re.compile(
    rf"(?P<plugins>--model\.(init_args\.)?plugins\.)(?P<name>{'|'.join(PLUGINS)})(?P<rest>[.=].*|$)"
)


class PPSSLCLI(LightningCLI):
    """LightningCLI with ppssl's data modules, base recipe, checkpoints and ``--resume``.

    The model is any LightningModule, chosen by its ``class_path``: PPSSL, FineTune, LinearProbe, or a user's own.

    Args:
        args: Command line arguments, without the program's name.
        examples: By Trainer command (``fit`` ...), the example that its ``--help`` shows; ``None``: no commands, only
            create Trainer, model and data module.
    """

    def __init__(self, args: Sequence[str], examples: dict[str, str] | None = None) -> None:
        base: dict[str, Any] = {
            "exit_on_error": False,
            "default_config_files": [recipe_path(BASE_RECIPE)],
        }
        commands = {
            name: base | {"description": f"Example: {text}"}
            for name, text in (examples or {}).items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                parser_class=CommandParser if examples else RecipeParser,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=_launcher_defaults(),
                parser_kwargs={"exit_on_error": False} | commands if examples else base,
                args=with_own_defaults(
                    add_plugins(replace_values(args, ("--config", "-c"), recipe_path))
                ),
                run=examples is not None,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of checkpoints and of the file of ``ppssl predict``, and ``--resume``."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="`auto`: resume from the readable checkpoint with the highest step in trainer.default_root_dir; "
            "or the path of a checkpoint.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and check ``--ckpt_path``, of which LightningCLI reads the hyperparameters next.

        ``last`` is the newest checkpoint of the run's folder: Lightning would look for it in the folder of the new
        version, where there is none.
        """
        super().parse_arguments(parser, args)
        config = self.config.get(self.config.get("subcommand") or "", {})
        path = config.get("ckpt_path")
        if path == "last":
            root = expand(config.trainer.default_root_dir or ".")
            path = config["ckpt_path"] = _as_text(newest_checkpoint(root))
        if path is not None:
            check_checkpoint("--ckpt_path", str(path))

    def before_instantiate_classes(self) -> None:
        """Expand ``~`` in paths, and check that the folders of checkpoints and logs can be written."""
        _expand(self.config)
        config = self.config if self.subcommand is None else self.config[self.subcommand]
        refuse_nulls(config)
        expand_class_name(config)
        if not config.trainer.fast_dev_run and getattr(rank_zero_only, "rank", 0) == 0:
            for folder in _output_folders(config):
                writable_folder(folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the Trainer, with :class:`AtomicCheckpointIO` in place of Lightning's ``TorchCheckpointIO``.

        On a CPU the process keeps the memory that it frees (:func:`~ppssl.utils.allocator.keep_freed_memory`).
        """
        config = self.config_init if self.subcommand is None else self.config_init[self.subcommand]
        saves = config["trainer"]["enable_checkpointing"] is not False
        options = kwargs if saves else kwargs | {"enable_checkpointing": True}
        with trainer_options():
            trainer = super().instantiate_trainer(**options)
        if not saves:
            # Lightning refuses the option beside a callback that saves, which is RunCheckpoint here.
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, RunCheckpoint)]  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        return trainer

    def before_fit(self) -> None:
        """Choose the checkpoint to resume from, and keep the earlier rows of the CSV log."""
        config = self.config_init["fit"]
        if config["resume"] is not None:
            config["ckpt_path"] = self._checkpoint_to_resume(config["resume"])
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger) and self.trainer.is_global_zero:
                keep_metrics(logger, resuming=self.config_init["fit"]["ckpt_path"] is not None)

    def before_validate(self) -> None:
        """Check that there are weights to validate."""
        command = str(self.subcommand)
        if self.config_init[command]["ckpt_path"] is None:
            require_weights(self.model, command)

    before_test = before_predict = before_validate

    def _checkpoint_to_resume(self, resume: str) -> str | None:
        """Path of the checkpoint that ``--resume`` names; ``None`` if ``auto`` finds none."""
        root = Path(self.trainer.default_root_dir)
        if resume == "auto":
            path = newest_checkpoint(root)
            if path and self.trainer.is_global_zero:
                remove_unfinished(path.parent)
        else:
            check_checkpoint("--resume", resume)
            path = expand(resume)
        rank_zero_info(
            f"Resuming from {path}." if path else f"Nothing to resume in {root}: starting anew."
        )
        return _as_text(path)

    def after_fit(self) -> None:
        """Print the path of the last checkpoint."""
        path = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
        if path:
            rank_zero_info(f"Checkpoint: {path}")


def _as_text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _expand(config: Any) -> Any:
    """Expand ``~`` in a configuration, in place; returns it."""
    if isinstance(config, Namespace):
        for name, value in vars(config).items():
            setattr(config, name, _expand(value))
        return config
    if isinstance(config, dict):
        return {name: _expand(value) for name, value in config.items()}
    return [_expand(item) for item in config] if isinstance(config, list) else expand_config(config)


def _output_folders(config: Any) -> Iterator[str]:
    """Local folders of a configuration that checkpoints and logs are written to."""
    loggers = config.trainer.logger
    loggers = loggers if isinstance(loggers, list) else [loggers]
    folders = [config.trainer.default_root_dir, config.checkpoint.get("dirpath")]
    folders += [
        logger.get("init_args", {}).get("save_dir")
        for logger in loggers
        if isinstance(logger, Namespace)
    ]
    yield from (folder for folder in folders if folder is not None and "://" not in str(folder))


def build_recipe(recipe: AnyPath, overrides: Sequence[str] = ()) -> PPSSLCLI:
    """Create the ``trainer``, ``model`` and ``datamodule`` of a recipe.

    Args:
        recipe: A file, such as the ``config.yaml`` of a run, or ``ppssl:<folder>/<recipe>``.
        overrides: Overrides of the recipe, as on the command line, such as ``--model.lr=0.001``.
    """
    return PPSSLCLI(["--config", os.fspath(recipe), *overrides])


def _launcher_defaults() -> dict[str, Any]:
    """Trainer defaults from the environment variables that ``torchrun`` and ``fabric run`` set."""
    defaults: dict[str, Any] = {}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        defaults = {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}
    if os.environ.get("LT_CLI_USED") != "1":
        return defaults
    for name in ("accelerator", "devices", "strategy", "num_nodes", "precision"):
        value = os.environ.get(f"LT_{name.upper()}")
        if value is not None:
            is_number = value.isdigit() and name != "precision"
            defaults[name] = int(value) if is_number else value
    return defaults


def replace_values(
    args: Sequence[str], options: Sequence[str], replace: Callable[[str], str]
) -> list[str]:
    """Replace the values of some options in a command line, written as ``--a b`` or ``--a=b``."""
    replaced: list[str] = []
    for previous, arg in zip(["", *args], args, strict=False):
        option, equals, value = arg.partition("=")
        if previous in options:
            replaced.append(replace(arg))
        elif equals and option in options:
            replaced.append(f"{option}={replace(value)}")
        else:
            replaced.append(arg)
    return replaced


def add_plugins(args: Sequence[str]) -> list[str]:
    """Add ``--model.plugins.ais=ppssl.AIS`` to a command line with options of AIS, if no recipe adds AIS.

    So ``--model.plugins.ais.corpus=...`` is enough to train any recipe with AIS. The same holds for all of ``PLUGINS``.
    """
    options = [*itertools.pairwise(args), *(arg.split("=", 1) for arg in args if "=" in arg)]
    configs = [value for option, value in options if option in ("--config", "-c")]
    present = {name for path in configs for name in _plugins_of(_read_recipe(path))}
    extended: list[str] = []
    for arg in args:
        option = _PLUGIN_OPTION.match(arg)
        if option and option["name"] not in present:
            name, rest = option["name"], option["rest"]
            if rest.startswith(".") and not rest.startswith(".class_path"):
                extended.append(f"{option['plugins']}{name}={PLUGINS[name]}")
            present.add(name)
        extended.append(arg)
    return extended


def _read_recipe(path: str) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        found = {type(None): "is empty", str: "is plain text", list: "is a list"}
        raise UserError(
            f"{path} is no recipe: it must have sections such as `model:`, `data:` and `trainer:`, and "
            f"{found.get(type(content), 'is a single value')}."
        )
    return content


def _plugins_of(config: Any) -> list[str]:
    """Names of the plugins in the content of a recipe."""
    model = config.get("model") if isinstance(config, dict) else None
    init_args = model.get("init_args", model) if isinstance(model, dict) else {}
    plugins = init_args.get("plugins") if isinstance(init_args, dict) else None
    return list(plugins) if isinstance(plugins, dict) else []
