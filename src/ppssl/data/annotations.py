"""Masks of the object and its parts in the centre view of an image, from box, point and mask annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping

from PIL import Image, ImageDraw
from torch import Tensor

from ppssl.checkpointing.view import View
from ppssl.data.source import ImageSource
from ppssl.data.transforms import center_view

__all__ = ["object_mask", "original_size", "part_mask"]

_PART_RADIUS = 0.1
"""Radius of a part that is annotated as a point, as a fraction of the box's larger side (that of PCK@0.1)."""


def original_size(
    source: ImageSource, i: int, annotations: Mapping[str, Tensor]
) -> tuple[int, int]:
    """Width and height of an image in pixels, if its annotations need them: boxes are fractions; else (0, 0)."""
    boxed = "box" in annotations and "object" not in annotations
    return source.load(i).size if boxed else (0, 0)


def object_mask(
    annotations: Mapping[str, Tensor], size: tuple[int, int], view: View
) -> Tensor | None:
    """Mask of the object in the centre view of an image.

    Args:
        annotations: Annotations of the original: ``object``, an ``(H, W)`` mask, or ``box``, left, top, right and
            bottom in [0, 1].
        size: Width and height of the original in pixels.
        view: What is shown of the image, of size S; masks are squashed as it is.

    Returns:
        ``(S, S)`` float32 in [0, 1], 0 for a box outside of the image; ``None`` without either annotation.
    """
    if "object" in annotations:
        mask = Image.fromarray(annotations["object"].numpy().astype("uint8") * 255)
    elif "box" in annotations:
        mask = Image.new("L", size)
        left, top, right, bottom = annotations["box"].tolist()
        first = round(left * size[0]), round(top * size[1])
        last = round(right * size[0] - 1), round(bottom * size[1] - 1)
        if first[0] <= last[0] and first[1] <= last[1]:
            ImageDraw.Draw(mask).rectangle((*first, *last), fill=255)
    else:
        return None
    return _in_view(mask, view)


def part_mask(
    annotations: Mapping[str, Tensor], size: tuple[int, int], view: View
) -> Tensor | None:
    """Mask of the union of all parts in the centre view of an image, as :func:`object_mask`.

    Args:
        annotations: ``parts``, ``(P, H, W)`` masks, or ``points``, ``(P, 2)``, x and y in [0, 1], NaN for an invisible
            part, with ``box``: each point is drawn as a disc, whose radius is a tenth of the box's larger side.
        size: Width and height of the original in pixels.
        view: What is shown of the image.
    """
    if "parts" in annotations:
        mask = Image.fromarray(annotations["parts"].any(dim=0).numpy().astype("uint8") * 255)
    elif "points" in annotations and "box" in annotations:
        mask = Image.new("L", size)
        left, top, right, bottom = annotations["box"].tolist()
        radius = _PART_RADIUS * max((right - left) * size[0], (bottom - top) * size[1])
        for x, y in annotations["points"].tolist():
            if not math.isnan(x):
                ImageDraw.Draw(mask).circle((x * size[0], y * size[1]), radius, fill=255)
    else:
        return None
    return _in_view(mask, view)


def _in_view(mask: Image.Image, view: View) -> Tensor:
    return center_view(mask.convert("RGB"), *view)[0].float() / 255
