"""Fixed un-augmented training images for callbacks, with the masks of their objects and parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.checkpointing.view import View
from ppssl.data.annotations import object_mask, original_size, part_mask
from ppssl.data.loader import collate

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["example_batch", "example_masks"]


def example_batch(
    data: FineGrainedDataModule,
    count: int,
    transform: Callable[[Image.Image], Tensor] | None = None,
) -> dict[str, Any]:
    """A fixed batch of un-augmented training images, evenly spaced.

    Args:
        data: The data module, after its ``setup``.
        count: Number of images; the batch is smaller if the data set is, or if broken images are skipped.
        transform: Of the original images; ``None``: their centre views, ``(3, S, S)`` uint8.

    Returns:
        ``image`` ``(n, 3, S, S)``, ``index`` and ``label`` ``(n,)`` int64, ascending by index.

    Raises:
        UserError: An image is broken and ``on_error`` is ``"raise"``, or all images are broken.
    """
    items = np.linspace(0, data.num_train - 1, min(count, data.num_train)).round().astype(int)
    images = data.eval_dataset("train", items, transform)
    batch = data.on_before_batch_transfer(collate([images[i] for i in range(len(images))]), 0)
    _, once = np.unique(batch["index"], return_index=True)  # another image in a broken one's place
    return {name: values[once] for name, values in batch.items()}


def example_masks(
    data: FineGrainedDataModule, index: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Masks of the objects and of their parts in the centre views of training images.

    Args:
        data: The data module, after its ``setup``.
        index: The images' numbers ``(n,)``, as :func:`example_batch` gives them.

    Returns:
        Two masks ``(n, S, S)`` float32 in [0, 1]; ``None`` if an image has no such annotation.
    """
    source, offset = data.sources["train"], data.offset("train")
    view, objects, parts = View.of_data(data), [], []
    for i in (index - offset).tolist():
        annotations = source.annotations(i)
        size = original_size(source, i, annotations)
        objects.append(object_mask(annotations, size, view))
        parts.append(part_mask(annotations, size, view))
    return _stacked(objects), _stacked(parts)


def _stacked(masks: list[Tensor | None]) -> Tensor | None:
    present = [mask for mask in masks if mask is not None]
    return torch.stack(present) if len(present) == len(masks) else None
