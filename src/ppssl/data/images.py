"""From a file, or the bytes of one, to RGB pixels that stand upright: what every kind of image becomes, in one place.

CMYK, greyscale and palettes become RGB by Pillow's conversion; 16 bits a channel keep the upper eight; what is
transparent lies on white; the EXIF orientation is carried out, and an EXIF block that cannot be read ignored; of an
animation or a file of several pages the first is taken. Empty and truncated files, files that are no images whatever
their name says, floating-point pixels (their range is anybody's guess) and images above twice Pillow's
``MAX_IMAGE_PIXELS`` (some 179 million: decompression bombs) are broken.
"""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = ["read_frame", "read_image", "turn_upright"]

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
"""What brings an image of each EXIF orientation upright; 1 and all other values already are."""

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
"""What Pillow's decoders raise on damaged files beside ``OSError`` and ``ValueError``."""


def read_image(file: Path | bytes) -> Image.Image:
    """An image in mode RGB, upright.

    Args:
        file: Its path, or the bytes of an image file.

    Raises:
        OSError: It cannot be read, or is truncated.
        ValueError: It is no image, or one that has no defined meaning in 8-bit RGB.
    """
    try:
        with _open(file) as image:
            turn = _TURNS.get(_orientation(image))
            rgb = _rgb(image)
            return rgb if turn is None else rgb.transpose(turn)
    except UnidentifiedImageError:
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        reason = "no image of a kind that Pillow knows" if size else "the file is empty"
        raise ValueError(reason) from None
    except _DAMAGED as error:
        raise ValueError(f"{error or type(error).__name__}") from error


def read_frame(file: Path | bytes) -> tuple[int, int, int]:
    """Width and height in pixels as stored, and the EXIF orientation, 1 to 8; no pixel is decoded."""
    with _open(file) as image:
        return (*image.size, _orientation(image))


def turn_upright(points: np.ndarray, orientation: int) -> np.ndarray:
    """Points of a stored image where its EXIF orientation puts them.

    Args:
        points: ``(..., 2)``, x and y in [0, 1].
        orientation: The EXIF orientation.
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


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow clips these to 8 bits: nearly all would be white
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
