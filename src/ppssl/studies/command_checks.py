"""Checks of a Trainer command before it runs: Lightning's own options, and the checkpoint that it is to load."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ppssl.checkpointing.atomic import newest_checkpoint
from ppssl.checkpointing.files import read_plain
from ppssl.checkpointing.module import TrainingModule
from ppssl.classify.base import Classifier
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.paths import expand

__all__ = ["check_checkpoint", "require_weights", "trainer_options"]


@contextmanager
def trainer_options() -> Iterator[None]:
    """Turn Lightning's errors about the Trainer's options into one line.

    Raises:
        UserError: With Lightning's reason.
    """
    try:
        yield
    except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"`trainer` cannot be created: {' '.join(str(error).split())}") from error


def require_weights(model: Any, command: str) -> None:
    """Refuse to measure or use weights that are random.

    Args:
        model: The model; of one that is not of ppssl nothing is known.
        command: ``"validate"``, ``"test"`` or ``"predict"``.

    Raises:
        UserError: The model has neither pretrained weights nor a checkpoint.
    """
    if isinstance(model, Classifier):
        raise UserError(
            "The classifier is not trained: give its checkpoint with `--ckpt_path path/to/last.ckpt`."
        )
    if isinstance(model, TrainingModule) and not getattr(model, "pretrained", False):
        raise UserError(
            f"`ppssl {command}` has random weights only: give a checkpoint with `--ckpt_path path/to/last.ckpt`, or "
            "`--model.pretrained` weights."
        )


def check_checkpoint(option: str, text: str) -> None:
    """Check that a checkpoint can be read, before anything else is done.

    Args:
        option: The option that it is given by, for the messages.
        text: Its path; a place that is not a local file is left to Lightning.

    Raises:
        UserError: There is no such file, or it is no checkpoint.
    """
    if "://" in text or text == "hpc" or text.startswith("registry:"):
        return
    path = expand(text)
    if path.is_dir():
        newest = newest_checkpoint(path)
        hint = f"such as {newest}" if newest else "but there is no checkpoint in it"
        raise UserError(f"`{option}`: {path} is a folder: give the file, {hint}.")
    if not path.is_file():
        raise UserError(
            f"`{option}`: no such checkpoint: {path}{similar_path(path, '*.ckpt')}. `--resume auto` selects the newest "
            "one below `trainer.default_root_dir`."
        )
    content = read_plain(path, "a checkpoint", mmap=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"`{option}`: {path} is no checkpoint of a run: it has no `state_dict`.")
