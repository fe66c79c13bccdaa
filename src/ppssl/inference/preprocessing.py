"""Preprocessing of images for an encoder, as evaluation has it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ppssl.checkpointing.backbone import normalisation
from ppssl.checkpointing.files import read_checkpoint
from ppssl.checkpointing.module import TrainingModule
from ppssl.checkpointing.view import View
from ppssl.data.transforms import center_view
from ppssl.utils.paths import AnyPath

__all__ = ["Preprocessing", "load_transform", "preprocess"]

_SQUASH = """

def squash(image):
    side = max(1, round((image.width * image.height) ** 0.5))
    return image.resize((side, side), Image.Resampling.BICUBIC)
"""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images: what is shown of them, and how it is normalised.

    Attributes:
        view: Size, centre crop, whether images are squashed first, and bit depth.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
    """

    view: View
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Preprocessing":
        """Return the preprocessing of a checkpoint's ``ppssl`` entry; size 224 and crop 0.875 where it has none."""
        return cls(View.of_content(content), *normalisation(content["encoder"]))

    def transform(self) -> v2.Compose:
        """Return it as a transform of torchvision: a PIL image to ``(3, S, S)`` float32, normalised."""
        floats = v2.Lambda(partial(_floats, view=self.view))
        return v2.Compose([floats, v2.Normalize(list(self.mean), list(self.std))])

    def timm(self) -> dict[str, Any]:
        """Return the entries of timm's ``pretrained_cfg``.

        timm resizes to the whole part of size / crop, where evaluation rounds; with half a pixel more it is the same.
        Squashed images are resized twice, first to a square of as many pixels, and by timm once: of two photographs of
        640 x 336 pixels the views of 96 to 224 pixels differ by 0.6 of 255 levels on average at most, and 11 anywhere.
        """
        size = self.view.size
        return {
            "input_size": [3, size, size],
            "crop_pct": size / (self.view.short_side + 0.5),
            "crop_mode": "squash" if self.view.squash else "center",
            "interpolation": "bilinear",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def transformers(self) -> dict[str, Any]:
        """Return the content of transformers' ``preprocessor_config.json``.

        Its pixels differ by one of 255 levels at most, except that transformers crops one pixel earlier where the rest
        of a side is 3, 7, 11, ... pixels, and that squashed images are resized once, as by :meth:`timm`.
        """
        size, short_side = self.view.size, self.view.short_side
        square = {"height": short_side, "width": short_side}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": square if self.view.squash else {"shortest_edge": short_side},
            "resample": int(Image.Resampling.BILINEAR),
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def code(self) -> str:
        """Return torchvision code of the preprocessing, for images of 8 bits."""
        define, call = (_SQUASH, "\n    squash,") if self.view.squash else ("", "")
        return f"""\
from PIL import Image, ImageOps
from torchvision import transforms


def rgb(image):
    image = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
{define}

prepare = transforms.Compose([
    rgb,{call}
    transforms.Resize({self.view.short_side}),
    transforms.CenterCrop({self.view.size}),
    transforms.ToTensor(),
    transforms.Normalize({self.mean}, {self.std}),
])"""


def _floats(image: Image.Image, view: View) -> Tensor:
    """Pixels in [0, 1], by the view and the division of the data modules, so that both are equal to the last bit."""
    return center_view(image, *view).float() / 255


def load_transform(path: AnyPath) -> v2.Compose:
    """Load the preprocessing of a checkpoint's encoder: what evaluation does to an image at the training's size.

    Args:
        path: A checkpoint of ``ppssl fit``.

    Returns:
        A transform of torchvision, a PIL image of any mode to ``(3, S, S)`` float32, normalised, for the model of
        :func:`~ppssl.encoder.load_encoder`.

    Raises:
        UserError: No such file, or no checkpoint of ppssl.
    """
    return Preprocessing.of(read_checkpoint(path)["ppssl"]).transform()


def preprocess(model: TrainingModule, image: Image.Image) -> Tensor:
    """Prepare a PIL image as evaluation of a model does: ``(3, S, S)`` float32, normalised."""
    info = model.encoder.info
    return Preprocessing(model.evaluation_view, info.mean, info.std).transform()(image)
