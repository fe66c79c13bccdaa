"""Recipes: YAML files that say what to train, on what, and how. They are LightningCLI's configs.

``ppssl:folder/pretrain`` names a recipe that travels with the package, ``experiments/folder/pretrain.yaml``. The base
recipe gives the defaults; a recipe states only what it changes.
"""

import itertools
import os
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from ppssl.checkpointing.atomic import AtomicCheckpointIO, newest_checkpoint
from ppssl.checkpointing.metrics_csv import keep_metrics
from ppssl.checkpointing.run_checkpoint import RunCheckpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.utils.errors import UserError, did_you_mean, similar_path

__all__ = [
    "PLUGINS",
    "PPSSLCLI",
    "add_plugins",
    "build_recipe",
    "read_yaml",
    "recipe_path",
    "replace_values",
]

PLUGINS = {"ais": "ppssl.AIS", "iadm": "ppssl.IADM"}
"""The plugins of the package, by the name that makes the command line add them."""

_PREFIX = "ppssl:"
_BASE = "ppssl:base"
_PLUGIN_OPTION = re.compile(
    rf"(?P<plugins>--model\.(init_args\.)?plugins\.)(?P<name>{'|'.join(PLUGINS)})(?P<rest>[.=].*|$)"
)


class PPSSLCLI(LightningCLI):
    """LightningCLI over models and data modules of ppssl: base recipe, checkpoints, ``--resume auto``.

    The model is any LightningModule by its ``class_path``: PPSSL, FineTune, LinearProbe, or one of your own.

    Args:
        args: The command line, without the program's name.
        examples: What ``--help`` of each of the Trainer's commands shows; ``None``: no commands, build only.
    """

    def __init__(self, args: Sequence[str], examples: dict[str, str] | None = None) -> None:
        base: dict[str, Any] = {
            "exit_on_error": False,
            "default_config_files": [recipe_path(_BASE)],
        }
        commands = {
            name: base | {"description": f"Example: {text}"}
            for name, text in (examples or {}).items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                LightningModule,
                FineGrainedDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=_launcher_defaults(),
                parser_kwargs={"exit_on_error": False} | commands if examples else base,
                args=add_plugins(replace_values(args, ("--config", "-c"), recipe_path)),
                run=examples is not None,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options that are not the Trainer's, the model's or the data's."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="`auto`: go on from the readable checkpoint with the highest step below trainer.default_root_dir; "
            "or a checkpoint's path.",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with :class:`AtomicCheckpointIO` in place of Lightning's ``TorchCheckpointIO``."""
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def before_fit(self) -> None:
        """Choose the checkpoint to go on from, and keep the log of before."""
        resume = self.config_init["fit"]["resume"]
        if resume is not None:
            self.config_init["fit"]["ckpt_path"] = self._checkpoint(resume)
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger) and self.trainer.is_global_zero:
                keep_metrics(logger, resuming=self.config_init["fit"]["ckpt_path"] is not None)

    def _checkpoint(self, resume: str) -> str | None:
        root = Path(self.trainer.default_root_dir)
        path = newest_checkpoint(root) if resume == "auto" else Path(resume)
        if path is not None and not path.is_file():
            raise UserError(
                f"`--resume`: no such checkpoint: {path}; `--resume auto` looks for one."
            )
        rank_zero_info(
            f"Resuming from {path}." if path else f"Nothing to resume in {root}: starting anew."
        )
        return None if path is None else str(path)

    def after_fit(self) -> None:
        """Say where the result lies."""
        path = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
        if path:
            rank_zero_info(f"Checkpoint: {path}")


def build_recipe(recipe: str, overrides: Sequence[str] = ()) -> PPSSLCLI:
    """What a recipe describes: the result has ``trainer``, ``model`` and ``datamodule``.

    Args:
        recipe: A file, or ``ppssl:<folder>/<recipe>``.
        overrides: As on the command line, such as ``--model.lr=0.001``.
    """
    return PPSSLCLI(["--config", recipe, *overrides])


def recipe_path(name: str) -> str:
    """The file of a recipe named ``ppssl:<folder>/<recipe>``; any other name is a path and comes back as it is.

    Raises:
        UserError: No such recipe or file, with the nearest name.
    """
    if not name.startswith(_PREFIX):
        if not Path(name).is_file():
            raise UserError(f"No such config: {name}{similar_path(Path(name), '*.yaml')}.")
        return name
    root = Path(str(files("ppssl.experiments")))
    path = root / f"{name.removeprefix(_PREFIX)}.yaml"
    if not path.is_file():
        known = sorted(
            f"{_PREFIX}{p.relative_to(root).with_suffix('')}" for p in root.rglob("*.yaml")
        )
        raise UserError(
            f"No such recipe: {name}{did_you_mean(name, known)}; there are {', '.join(known)}."
        )
    return str(path)


def _launcher_defaults() -> dict[str, Any]:
    """What ``torchrun`` and ``fabric run`` were told becomes the Trainer's defaults; it is in the environment."""
    defaults: dict[str, Any] = {}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        defaults = {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}
    if os.environ.get("LT_CLI_USED") != "1":
        return defaults
    names = ("accelerator", "devices", "strategy", "num_nodes", "precision")
    told = {name: os.environ.get(f"LT_{name.upper()}") for name in names}
    return defaults | {
        name: int(value) if value.isdigit() and name != "precision" else value
        for name, value in told.items()
        if value is not None
    }


def replace_values(
    args: Sequence[str], options: Sequence[str], replace: Callable[[str], str]
) -> list[str]:
    """The command line with the values of some options replaced, given as ``--a b`` or ``--a=b``."""
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
    """The command line with ``--model.plugins.ais=ppssl.AIS`` before the first option of a plugin that nothing names.

    So ``--model.plugins.ais.corpus=...`` is all it takes to train any recipe with AIS.
    """
    pairs = [*itertools.pairwise(args), *(arg.split("=", 1) for arg in args if "=" in arg)]
    configs = [path for option, path in pairs if option in ("--config", "-c")]
    named = {name for path in configs for name in _plugins_of(read_yaml(path))}
    added: list[str] = []
    for arg in args:
        found = _PLUGIN_OPTION.match(arg)
        if found and found["name"] not in named:
            name, rest = found["name"], found["rest"]
            if rest.startswith(".") and not rest.startswith(".class_path"):
                added.append(f"{found['plugins']}{name}={PLUGINS[name]}")
            named.add(name)
        added.append(arg)
    return added


def _plugins_of(config: Any) -> list[str]:
    model = config.get("model") if isinstance(config, dict) else None
    init_args = model.get("init_args", model) if isinstance(model, dict) else {}
    plugins = init_args.get("plugins") if isinstance(init_args, dict) else None
    return list(plugins) if isinstance(plugins, dict) else []


def read_yaml(name: str) -> Any:
    """The content of a recipe or another YAML file.

    Raises:
        UserError: No such file, or no YAML.
    """
    path = recipe_path(name)
    try:
        return yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
