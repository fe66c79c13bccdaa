"""What evaluation shows of an image: the size, the centre crop, whether it is squashed first, and its bit depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ppssl.checkpointing.files import read_checkpoint
from ppssl.utils.paths import AnyPath

__all__ = ["View"]


class View(NamedTuple):
    """Preprocessing of an image, as in evaluation; the defaults where nothing is known of the images.

    Attributes:
        size: Height and width of the input in pixels.
        crop: The centre crop, as a fraction of the short side.
        squash: Whether the image is squashed to a square first (:func:`ppssl.data.images.squash`).
        bit_depth: Bits that values of 16 or 32 bits have (:func:`ppssl.data.images.read_image`).
    """

    size: int = 224
    crop: float = 0.875
    squash: bool = False
    bit_depth: int | None = None

    @property
    def short_side(self) -> int:
        """Pixels that the short side is resized to, before the crop."""
        return round(self.size / self.crop)

    @classmethod
    def of(cls, path: AnyPath) -> View:
        """Return the preprocessing that a checkpoint was trained with; the defaults where it does not say."""
        return cls.of_content(read_checkpoint(path)["ppssl"])

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> View:
        """Return the preprocessing of a checkpoint's ``ppssl`` entry.

        Earlier versions wrote less of it, or nothing: what is missing is taken from the arguments of the data.
        """
        arguments = (content["data"] or {}).get("init_args", {})
        names = ("image_size", "eval_crop", "squash", "bit_depth")
        of_data = [arguments.get(name, value) for name, value in zip(names, cls(), strict=True)]
        told = content.get("view") or ()
        view = cls(*told, *of_data[len(told) :])
        return view._replace(size=content["encoder"]["image_size"] or view.size)

    @classmethod
    def of_data(cls, data: Any) -> View:
        """Return that of a data module; those of others may have neither ``squash`` nor ``bit_depth``."""
        further = getattr(data, "squash", False), getattr(data, "bit_depth", None)
        return cls(data.image_size, data.eval_crop, *further)
