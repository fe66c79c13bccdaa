"""Batches that the model works on, of training and evaluation: a check of what a data set of one's own yields."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from ppssl.utils.errors import UserError
from ppssl.utils.lightning_internals import load_training_data

__all__ = ["check_batch", "check_evaluation_batch", "count_images"]

_EXPECTED = (
    "A training batch must be a dict with `views`, a list of two or more normalised floating-point tensors "
    "(B, 3, H, W), and `index`, the numbers of the images (B,), integers"
)
_REMEDY = "DatasetDataModule makes such batches of any data set, FolderDataModule of a folder."


def check_batch(batch: Any) -> None:
    """Check the entries of a training batch that every objective needs.

    Raises:
        UserError: The message says what came instead.
    """
    if not isinstance(batch, Mapping) or not {"views", "index"} <= batch.keys():
        raise UserError(f"{_EXPECTED}; got {_describe(batch)}. {_REMEDY}")
    views, index = batch["views"], batch["index"]
    several = isinstance(views, list | tuple) and len(views) >= 2
    if not several or not all(isinstance(v, Tensor) and v.ndim == 4 for v in views):
        raise UserError(f"{_EXPECTED}; got `views` that are {_describe(views)}. {_REMEDY}")
    if not all(view.is_floating_point() and view.shape[1] == 3 for view in views):
        raise UserError(f"{_EXPECTED}; got `views` that are {_describe(views)}. {_REMEDY}")
    if other := [view for view in views if len(view) != len(views[0])]:
        raise UserError(
            f"{_EXPECTED}; got `views` of which the first is {_describe(views[0])} and another one "
            f"{_describe(other[0])}. {_REMEDY}"
        )
    numbers = isinstance(index, Tensor) and not index.is_floating_point()
    if not numbers or index.shape != views[0].shape[:1]:
        raise UserError(f"{_EXPECTED}; got an `index` that is {_describe(index)}. {_REMEDY}")


def check_evaluation_batch(batch: Any) -> None:
    """Check that a batch of validation, test or prediction has images.

    Raises:
        UserError: The message says what came instead.
    """
    image = batch.get("image") if isinstance(batch, Mapping) else None
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
        got = _describe(batch) if image is None else f"an `image` that is {_describe(image)}"
        raise UserError(
            "A batch for evaluation must be a dict with `image`, a normalised floating-point tensor (B, 3, H, W), and "
            f"for the monitors with `label` and `index`, (B,), from two loaders, gallery and queries; got {got}. "
            f"{_REMEDY} "
            "`limit_val_batches=0` of the Trainer leaves validation out."
        )


def count_images(data: Any, trainer: Trainer) -> int:
    """Return the number of training images.

    Args:
        data: The data module, or ``None``; without one of ppssl, the Trainer's loader is made and asked.
        trainer: The Trainer.

    Raises:
        UserError: The loader is no DataLoader, or its data set has no length.
    """
    if hasattr(data, "num_train"):
        return data.num_train
    loader = load_training_data(trainer)
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError) as error:
        raise UserError(
            "The training data must be a DataLoader of a data set with a length, or one of ppssl's data modules; got a "
            f"{type(loader).__name__}."
        ) from error


def _describe(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(f'`{name}`' for name in value) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a list of {', '.join(map(_describe, value[:4])) or 'nothing'}"
    return f"a {type(value).__name__}"
