"""Pipelines from an image file to two views: ours, torchvision's and lightly's, all with MoCo v2's augmentation."""

import importlib.util
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image, ImageFilter
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision import transforms
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.dataset import ViewDataset
from ppssl.data.files import FileSource
from ppssl.data.images import squash
from ppssl.data.source import ImageSource
from ppssl.data.transforms import MoCoV2Augmentation
from ppssl.utils.errors import UserError

__all__ = [
    "Pipeline",
    "make_pipelines",
    "our_views",
    "torchvision_transform",
    "torchvision_v2_transform",
    "view_dataset",
]

Pipeline = Callable[[int], Sequence[Any]]
"""Makes the two views of an image from its number."""
JITTER = (0.4, 0.4, 0.4, 0.1)
BLUR_SIGMA = (0.1, 2.0)
V2_KERNEL = 9
"""Kernel size of the blur on tensors, as in DINOv2; with 23 (SimCLR's) the whole chain takes several times as long."""


class PILBlur:
    """Gaussian blur by Pillow with a random standard deviation, as in MoCo v2's code."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur an image."""
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*BLUR_SIGMA)))


def torchvision_transform(size: int) -> Callable[[Image.Image], Tensor]:
    """MoCo v2's augmentation as its code has it, by torchvision on PIL images: normalised float ``(3, size, size)``."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(*JITTER)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PILBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )


def torchvision_v2_transform(size: int) -> Callable[[Tensor], Tensor]:
    """The same by torchvision's second version on uint8 tensors."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(V2_KERNEL, BLUR_SIGMA)], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )


def view_dataset(data: FineGrainedDataModule) -> ViewDataset:
    """The training images of a data module as two views each.

    Raises:
        UserError: The data module serves something else.
    """
    dataset = data.train_dataloader(epoch=0).dataset
    if not isinstance(dataset, ViewDataset):
        raise UserError("The data module serves labelled images in place of views.")
    return dataset


def our_views(dataset: ViewDataset) -> Pipeline:
    """Our two views, ``(3, size, size)`` uint8, of a new epoch in each call."""
    epochs = itertools.count()
    return lambda i: dataset[(next(epochs), i)]["views"]


def make_pipelines(data: FineGrainedDataModule) -> dict[str, Pipeline]:
    """Pipelines over the training images of a data module, by name.

    ``ppssl``: our views as a worker sends them (uint8; they are normalised on the training device). ``ppssl,
    normalised``: the same, normalised. ``torchvision`` and ``torchvision v2``: normalised float views. ``lightly``, if
    it is installed: the same. ``decode``: the image alone, in full size; ``decode, reduced``: at the size that our
    views need. With ``data.squash`` all of them squash the image first.
    """
    dataset = view_dataset(data)
    source, size = dataset.source, dataset.size
    views, old, new = (
        our_views(dataset),
        torchvision_transform(size),
        torchvision_v2_transform(size),
    )
    short_side = MoCoV2Augmentation().shortest_side(size)

    def on_tensors(i: int) -> Sequence[Tensor]:
        pixels = v2.functional.pil_to_tensor(load_image(source, i))
        return [new(pixels), new(pixels)]

    def on_images(i: int) -> Sequence[Tensor]:
        image = load_image(source, i)
        return [old(image), old(image)]

    pipelines: dict[str, Pipeline] = {
        "ppssl": views,
        "ppssl, normalised": lambda i: [data.normalise(view[None]) for view in views(i)],
        "torchvision": on_images,
        "torchvision v2": on_tensors,
        "decode": lambda i: [load_image(source, i)],
        "decode, reduced": lambda i: [source.serve(i, short_side)],
    }
    if importlib.util.find_spec("lightly"):
        from lightly.transforms import MoCoV2Transform

        transform = MoCoV2Transform(input_size=size)
        pipelines["lightly"] = lambda i: transform(load_image(source, i))
    return pipelines


def load_image(source: ImageSource, i: int) -> Image.Image:
    """Decode an image in full size, as torchvision's ``ImageFolder`` does if it is a file; squash it as views are."""
    if not isinstance(source, FileSource):
        return source.serve(i)
    image = pil_loader(str(source.paths[i]))
    return squash(image) if source.squash else image
