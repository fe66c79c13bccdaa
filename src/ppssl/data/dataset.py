"""Data sets of the data modules: every sample is a function of seed, epoch and number, so workers keep no state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ppssl.data.device_augmentation import largest_kernel, parameter_tensors
from ppssl.data.labelled_augmentation import LabelledAugmentation
from ppssl.data.own_views import OwnView, own_views
from ppssl.data.source import UNREADABLE, ImageSource
from ppssl.data.transforms import (
    MoCoV2Augmentation,
    ViewParameters,
    apply_view,
    crop_view,
)
from ppssl.utils.errors import UserError

__all__ = [
    "ImageDataset",
    "LabelledDataset",
    "Request",
    "ViewDataset",
    "item_numbers",
    "load_readable",
]

Request = Callable[[Image.Image], Tensor]
"""Function of a plugin that makes a tensor from the original RGB image."""


class ViewDataset(Dataset[dict[str, Any]]):
    """Augmented views of each training image, two or more, accessed by ``(epoch, number)``.

    With ``on_device`` the views are crops only, and ``augmentation`` holds what the training device does with them
    (:mod:`ppssl.data.device_augmentation`).
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        offset: int,
        augmentation: MoCoV2Augmentation | OwnView,
        size: int,
        seed: int,
        requests: Mapping[str, Request],
        on_device: bool = False,
    ) -> None:
        self.source, self.offset, self.augmentation = source, offset, augmentation
        self.size, self.seed, self.requests = size, seed, requests
        self.kernel = None
        if on_device and isinstance(augmentation, MoCoV2Augmentation):
            self.kernel = largest_kernel(augmentation, size)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, i = _epoch_and_number(key)
        image, i, broken = load_readable(self.source, range(len(self.source)), i, self._short_side)
        index = i + self.offset
        item = {**self._views(image, epoch, index), **item_numbers(self.source, i, index)}
        if self.requests and self._short_side is not None:  # the views are those without requests
            image = self.source.serve(i)
        item |= {name: make(image) for name, make in self.requests.items()}
        return item | {"broken": broken}

    @property
    def _short_side(self) -> int | None:
        if not isinstance(self.augmentation, MoCoV2Augmentation):
            return None
        return self.augmentation.shortest_side(self.size)

    def _views(self, image: Image.Image, epoch: int, index: int) -> dict[str, Any]:
        augmentation = self.augmentation
        if not isinstance(augmentation, MoCoV2Augmentation):
            key: dict[str, int] = {"seed": self.seed, "epoch": epoch, "index": index}
            views = own_views(augmentation, image, **key, size=self.size)
            return {"views": views, "geometry": torch.full((len(views), 5), torch.nan)}
        shape, pixels = (image.height, image.width), np.asarray(image)
        sizes = augmentation.view_sizes(self.size)
        parameters = [
            augmentation.sample(self.seed, epoch, index, view, size=shape, view_size=size)
            for view, size in enumerate(sizes)
        ]
        made: dict[str, Any] = {
            "views": [self._view(pixels, p, s) for p, s in zip(parameters, sizes, strict=True)],
            "geometry": torch.stack([p.geometry() for p in parameters]),
        }
        if self.kernel is not None:
            made["augmentation"] = parameter_tensors(parameters, self.kernel)
        return made

    def _view(self, pixels: np.ndarray, parameters: ViewParameters, size: int) -> Tensor:
        if self.kernel is None:
            return apply_view(pixels, parameters, size)
        return torch.from_numpy(crop_view(pixels, parameters, size)).permute(2, 0, 1)


class LabelledDataset(Dataset[dict[str, Any]]):
    """One augmented view of each labelled training image, accessed by ``(epoch, position in items)``."""

    def __init__(
        self,
        source: ImageSource,
        *,
        items: np.ndarray,
        offset: int,
        augmentation: LabelledAugmentation,
        size: int,
        seed: int,
    ) -> None:
        self.source, self.items, self.offset = source, items, offset
        self.augmentation, self.size, self.seed = augmentation, size, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, position = _epoch_and_number(key)
        image, i, broken = load_readable(self.source, self.items, position)
        index = i + self.offset
        view = self.augmentation.view(image, self.seed, epoch, index, self.size)
        return {"image": view, **item_numbers(self.source, i, index), "broken": broken}


class ImageDataset(Dataset[dict[str, Any]]):
    """Un-augmented images for evaluation, accessed by position in ``items``."""

    def __init__(
        self,
        source: ImageSource,
        *,
        items: np.ndarray,
        offset: int,
        transform: Request,
    ) -> None:
        self.source, self.items, self.offset = source, items, offset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < len(self):  # ends iteration over the dataset
            raise IndexError(f"No image {position} among {len(self)}.")
        image, i, broken = load_readable(self.source, self.items, position)
        numbers = item_numbers(self.source, i, i + self.offset)
        return {"image": self.transform(image), **numbers, "broken": broken}


def load_readable(
    source: ImageSource,
    numbers: Sequence[int] | np.ndarray,
    position: int,
    short_side: int | None = None,
) -> tuple[Image.Image, int, list[tuple[str, str]]]:
    """Load the image at a position of a list of image numbers, or the next readable one of the list.

    The substitute is from the same list, so a held-out image never replaces an unreadable one in the gallery.

    Args:
        source: The images.
        numbers: Image numbers.
        position: Position in ``numbers``.
        short_side: Pixels that the short side needs at least; a larger image may be decoded at a reduced size.

    Returns:
        The image, its number, and the unreadable images before it as (name, reason).

    Raises:
        UserError: 100 images in a row, or all of them, are unreadable.
    """
    broken: list[tuple[str, str]] = []
    for k in range(min(len(numbers), 100)):
        number = int(numbers[(position + k) % len(numbers)])
        try:
            return source.serve(number, short_side), number, broken
        except UNREADABLE as error:
            broken.append((source.name(number), str(error).split("\n")[0].rstrip(".")))
    raise UserError(
        f"None of {len(broken)} images in a row can be read; the first is {broken[0][0]}: {broken[0][1]}."
    )


def item_numbers(source: ImageSource, i: int, index: int) -> dict[str, int]:
    """Batch entries ``index`` and ``label`` of image ``i``."""
    return {"index": index, "label": int(source.labels[i])}


def _epoch_and_number(key: tuple[int, int] | int) -> tuple[int, int]:
    """Key of a sampler; that of ``trainer.overfit_batches`` gives numbers alone, for the same views in every epoch."""
    return key if isinstance(key, tuple) else (0, key)
