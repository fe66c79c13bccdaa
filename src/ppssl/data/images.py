"""Decoding of an image file, or the bytes of one, to upright RGB pixels.

CMYK, greyscale and palette images are converted to RGB by Pillow; of 16 bits per channel the upper eight are kept;
transparent images are put on white; the orientation of EXIF or XMP is applied, an unreadable EXIF block is ignored, and
all metadata are left out; of an animation or a file of several pages the first one is used. An error is raised for
empty and truncated files, files that are not images, floating-point pixels (their range is undefined) and images above
twice Pillow's ``MAX_IMAGE_PIXELS`` (about 179 million pixels: decompression bombs).
"""

import math
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = [
    "deep_range",
    "read_frame",
    "read_image",
    "shorten",
    "squash",
    "squashed_side",
    "to_rgb",
    "turn_upright",
]

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns an image of each EXIF orientation upright; 1 and other values need none."""

_DAMAGED = (
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Exceptions besides ``OSError`` and ``ValueError`` that Pillow's decoders raise for damaged files."""


def read_image(
    file: Path | bytes, *, short_side: int | None = None, bit_depth: int | None = None
) -> Image.Image:
    """Read an image, upright and in mode RGB.

    Args:
        file: Path, or the bytes of an image file.
        short_side: Pixels that the short side needs at least: a larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size,
            which is faster; ``None``: full size.
        bit_depth: Bits that the values of a file with 16 or 32 bits have, 8 to 16; ``None``: 16.

    Raises:
        OSError: The file cannot be read, or is truncated.
        ValueError: The file is not an image, or its pixels cannot be represented in 8-bit RGB.
    """
    try:
        with _open(file) as image:
            if short_side is not None:
                image.draft(None, (short_side, short_side))  # only JPEG has it
            return to_rgb(image, bit_depth)
    except UnidentifiedImageError:
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        reason = "not an image in a format that Pillow reads" if size else "the file is empty"
        raise ValueError(reason) from None
    except _DAMAGED as error:
        raise ValueError(f"{error or type(error).__name__}") from error


def read_frame(file: Path | bytes) -> tuple[int, int, int]:
    """Read width and height of the stored image in pixels, and its EXIF orientation (1 to 8), without decoding."""
    with _open(file) as image:
        (width, height), orientation = image.size, _orientation(image)
        if getattr(image, "tag_v2", {}).get(_ORIENTATION) in (5, 6, 7, 8):
            width, height = height, width  # of a TIFF Pillow states the size of the upright image
        return width, height, orientation


def deep_range(file: Path | bytes | Image.Image) -> int | None:
    """Largest value of an image with more than 8 bits per channel, of 65,535; ``None`` for other images."""
    if isinstance(file, Image.Image):
        if file.mode.startswith("I"):
            return int(np.asarray(file).max())
        if not _is_deep_colour(file):
            return None
        upper = int(np.asarray(file.convert("RGB")).max())  # Pillow keeps the upper eight bits
        return upper * 257
    with _open(file) as image:
        return deep_range(image)


def squash(image: Image.Image) -> Image.Image:
    """Resize an image to a square of as many pixels; a square stays as it is."""
    if image.width == image.height:
        return image
    side = squashed_side(*image.size)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def squashed_side(width: int, height: int) -> int:
    """Side in pixels of the square of as many pixels that an image is squashed to."""
    return max(1, round(math.sqrt(width * height)))


def shorten(image: Image.Image) -> Image.Image:
    """The middle of an image that is longer than 16 to 1: resized by its short side, the whole may fill the memory."""
    most = 16 * min(image.size)
    if max(image.size) <= most:
        return image
    width, height = (min(side, most) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def turn_upright(points: np.ndarray, orientation: int) -> np.ndarray:
    """Transform points of the stored image to the upright image.

    Args:
        points: ``(..., 2)``, x and y in [0, 1].
        orientation: EXIF orientation of the stored image, 1 to 8.
    """
    x, y = points[..., 0], points[..., 1]
    if orientation >= 5:
        x, y = y, x
    if orientation in (2, 3, 6, 7):
        x = 1 - x
    if orientation in (3, 4, 7, 8):
        y = 1 - y
    return np.stack([x, y], axis=-1)


def _open(file: Path | bytes) -> Image.Image:
    source: Any = BytesIO(file) if isinstance(file, bytes) else file
    return Image.open(source)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, *_DAMAGED):
        return 1
    return value if value in _TURNS else 1


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a colour image that is not decoded yet has 16 bits per channel."""
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
    return deep and not image.mode.startswith("I")


def to_rgb(image: Image.Image, bit_depth: int | None = None) -> Image.Image:
    """Convert an image to upright pixels of 8-bit RGB, see :func:`read_image`; its metadata are left out."""
    rgb = _to_rgb(image, 16 if bit_depth is None else bit_depth)
    turn = _TURNS.get(_orientation(image))  # of a decoded image: Pillow turns a TIFF as it decodes
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info = {}  # who reads the orientation there would turn it again
    return upright


def _to_rgb(image: Image.Image, bit_depth: int) -> Image.Image:
    if bit_depth < 16 and _is_deep_colour(image):
        raise ValueError(f"16-bit colour of {bit_depth} bits cannot be scaled; save it with 8 bits")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow clips these to 8 bits: nearly all would be white
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
        levels = (levels >> (bit_depth - 8)).clip(0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
