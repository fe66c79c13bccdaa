"""Views by a function of the user's own, such as a transform of torchvision, kornia or albumentations."""

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor

from ppssl.data.transforms import MoCoV2Augmentation
from ppssl.utils import randomness
from ppssl.utils.errors import ArgumentError, UserError

__all__ = ["OwnView", "check_equal", "check_place", "own_views"]

OwnView = Callable[..., Any]
"""``image -> view`` or ``(image, generator) -> view``: a view of the original RGB image, not normalised.

A view is a tensor ``(3, S, S)`` of uint8 or of floats in [0, 1], a PIL image, or an array ``(S, S, 3)`` of uint8. Both
views may be returned as a list, and further ones after them, ``(3, h, w)`` of a size of their own."""


def check_place(augmentation: Any, augment_on: str) -> None:
    """Refuse views of the user's own on the device, which has MoCo v2's augmentation only.

    Raises:
        ArgumentError: They are asked for.
    """
    if augment_on == "device" and not isinstance(augmentation, MoCoV2Augmentation | None):
        raise ArgumentError(
            "`augment_on` must be 'workers' for an `augmentation` of your own: the device has MoCo v2's only."
        )


def own_views(
    function: OwnView, image: Image.Image, *, seed: int, epoch: int, index: int, size: int
) -> list[Tensor]:
    """Draw the views of an image: uint8, or float32 in [0, 255]; the first two are ``(3, size, size)``.

    The function is called once for each of two views, or once if it returns a list of all. The generator, and the
    global ones of torch, NumPy and Python, are seeded by (seed, epoch, index, view), so transforms that draw from any
    of them are reproducible.

    Raises:
        UserError: A view has another form, size or range, or there is one only.
    """
    views = []
    for view in (0, 1):
        made = _draw(function, image, seed, epoch, index, view)
        if isinstance(made, list | tuple):
            if len(made) < 2:
                raise UserError(
                    "`augmentation` must give one view, or a list of two or more, got a "
                    f"`{type(made).__name__}` of {len(made)}."
                )
            return [_checked(each, size if i < 2 else None) for i, each in enumerate(made)]
        views.append(_checked(made, size))
    return views


def check_equal(views: Sequence[Sequence[Tensor]]) -> None:
    """Check that the images of a batch have as many views as each other, of the same sizes.

    Args:
        views: The views of each image.

    Raises:
        UserError: They do not.
    """
    shapes = list(dict.fromkeys(tuple(tuple(v.shape) for v in of_image) for of_image in views))
    if len(shapes) > 1:
        one, other = (", ".join(map(str, of_image)) for of_image in shapes[:2])
        raise UserError(
            f"`augmentation` must give all images as many views, of the same sizes, got {one} of one image and "
            f"{other} of another."
        )


def _draw(
    function: OwnView, image: Image.Image, seed: int, epoch: int, index: int, view: int
) -> Any:
    generator = [randomness.generator(seed, "view", epoch, index, view)]
    with isolate_rng(include_cuda=False):
        number = randomness.torch_seed(seed, "view", epoch, index, view)
        torch.manual_seed(number)
        np.random.seed(number % 2**32)  # for functions that draw from it
        random.seed(number)
        return function(image, *generator[: _takes_generator(function)])


def _takes_generator(function: OwnView) -> bool:
    """Whether a function needs a second argument; transforms of torchvision take any number, and need one."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len([p for p in parameters if p.kind in kinds and p.default is p.empty]) >= 2


def _checked(made: Any, size: int | None) -> Tensor:
    """A view as a tensor; ``size`` is what it must have, ``None`` for further views, which may have any."""
    if isinstance(made, Image.Image):
        made = np.array(made.convert("RGB"))
    if isinstance(made, np.ndarray) and made.dtype == np.uint8 and made.ndim == 3:
        made = torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))
    made = made[0] if isinstance(made, Tensor) and made.ndim == 4 and len(made) == 1 else made
    form = tuple(made.shape) if hasattr(made, "shape") else f"a `{type(made).__name__}`"
    if size is None and not (isinstance(made, Tensor) and made.ndim == 3 and len(made) == 3):
        raise UserError(
            f"`augmentation` must give views of (3, h, w) after the first two, got {form}."
        )
    if size is not None and not (isinstance(made, Tensor) and form == (3, size, size)):
        raise UserError(
            f"`augmentation` must give views of (3, {size}, {size}) for `image_size` {size}, got {form}."
        )
    if made.dtype == torch.uint8:
        return made.as_subclass(Tensor)
    if not made.is_floating_point() or not 0 <= made.min() <= made.max() <= 1:
        raise UserError(
            f"`augmentation` must give views of uint8, or of floats in [0, 1], got {made.dtype} from {made.min():.3g} "
            f"to {made.max():.3g}: leave the normalisation to the model, which has the encoder's mean and deviation."
        )
    return made.as_subclass(Tensor).float() * 255
