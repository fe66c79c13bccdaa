"""Teachers from timm: image encoders without a text encoder, such as a larger model than the one that is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl.encoder import Encoder
from ppssl.text.teachers.base import Teacher, images_only, of_channels
from ppssl.utils.checks import check_pixels
from ppssl.utils.paths import expand

__all__ = ["SquareTransform", "TimmTeacher"]


class TimmTeacher(Teacher):
    """Frozen image encoder of timm. It embeds no texts: :class:`~ppssl.Distillation` needs none, AIS does.

    Args:
        backbone: Any timm model name.
        pretrained: timm's weights (``True``), a local file of weights or checkpoint of ppssl, or random weights
            (``False``), whose bank holds those of the teacher that it was first made with.
        image_size: Height and width in pixels that images are resized to; ``None``: those of the weights.

    Weights are read when the first image is embedded: a bank that is there already needs none.
    """

    def __init__(
        self, backbone: str, *, pretrained: bool | str = True, image_size: int | None = None
    ) -> None:
        check_pixels(image_size=image_size)
        self.backbone = backbone
        self.pretrained = pretrained
        self.image_size = image_size
        self.name = f"timm/{backbone}" + (f" at {image_size} pixels" if image_size else "")
        self.name += ", random weights" if pretrained is False else ""
        self.temperature = 1.0
        self.tokenizer = None
        self.embeds_texts = False
        self._device = torch.device("cpu")

    @cached_property
    def encoder(self) -> Encoder:
        """The model.

        Raises:
            UserError: No such model or weights, or it does not take images of this size.
        """
        encoder = Encoder(self.backbone, self.pretrained, self.image_size).to(self._device)
        return encoder.eval().requires_grad_(False)

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:  # type: ignore[override]  # computed once
        """Resize the short side, cut out the central square, normalise."""
        return SquareTransform(self.input_size, self.mean, self.std)

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Height and width of the input in pixels."""
        return self.image_size or int(self.encoder.model.pretrained_cfg["input_size"][-1])

    @property
    def mean(self) -> tuple[float, ...]:  # type: ignore[override]
        """Per-channel mean of the input, in units of [0, 1]."""
        return self.encoder.info.mean

    @property
    def std(self) -> tuple[float, ...]:  # type: ignore[override]
        """Per-channel standard deviation of the input, in units of [0, 1]."""
        return self.encoder.info.std

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Embedding dimension e."""
        return self.encoder.info.dim

    def fingerprint(self) -> str | None:
        """SHA-256 of the weight file; ``None`` for timm's or random weights, which the name tells."""
        if isinstance(self.pretrained, bool):
            return None
        return hashlib.sha256(expand(self.pretrained).read_bytes()).hexdigest()

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embed images, in half precision on a GPU."""
        kind = self._device.type
        with torch.no_grad(), torch.autocast(kind, enabled=kind != "cpu"):
            return F.normalize(self.encoder(pixels.to(self._device)).float(), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Refuse: there is no text encoder."""
        raise images_only(self.name)

    def fits(self, text: str) -> bool:
        """Refuse: there is no text encoder."""
        raise images_only(self.name)

    def to(self, device: torch.device | str) -> TimmTeacher:
        """Move the model to a device, now or when it is loaded; returns itself."""
        self._device = torch.device(device)
        if "encoder" in vars(self):
            self.encoder.to(device)
        return self


@dataclass(frozen=True)
class SquareTransform:
    """Resize the short side, cut out the central square, normalise: ``(3, size, size)`` float32."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess an image."""
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        square = image.convert("RGB").resize(
            (self.size, self.size),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        mean, std = (of_channels(values, pixels) for values in (self.mean, self.std))
        return (pixels - mean) / std
