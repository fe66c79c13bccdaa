"""The data set of a checkpoint, made again."""

from collections.abc import Mapping
from typing import Any

from ppssl.utils.errors import UserError
from ppssl.utils.instantiate import instantiate
from ppssl.utils.paths import AnyPath

__all__ = ["data_of_checkpoint"]


def data_of_checkpoint(content: Mapping[str, Any], path: AnyPath) -> Any:
    """Create the data module that a checkpoint was trained on, for evaluation.

    An augmentation that is no plain data, such as a transform of torchvision, is left out: evaluation uses none.

    Args:
        content: The checkpoint's ``ppssl`` entry.
        path: The checkpoint, for messages.

    Raises:
        UserError: The checkpoint names no data set, does not hold one of its arguments, or names a foreign class.
    """
    saved = content["data"]
    if saved is None:
        raise UserError(
            f"{path} has no data set: give one, in Python `data`, on the command line `--data RECIPE`."
        )
    for name, kind in saved.get("not_saved", {}).items():
        if name != "augmentation":
            raise UserError(
                f"`{name}` of the data set was a `{kind}`, which {path} does not hold: in Python give the data module, "
                "on the command line a recipe of images in folders, `--data RECIPE`."
            )
    return instantiate({name: saved[name] for name in ("class_path", "init_args")}, "data")
