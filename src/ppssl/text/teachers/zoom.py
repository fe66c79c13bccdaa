"""A teacher that looks twice: at the whole image, and closer at the window of it that matters (:ref:`D18 <d18>`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl.encoder import Encoder
from ppssl.text.teachers.base import Teacher, of_channels
from ppssl.text.teachers.load import embeds_texts, load_teacher, teacher_fingerprint, teacher_name
from ppssl.text.teachers.timm_teacher import SquareTransform, TimmTeacher
from ppssl.utils.checks import check_range

__all__ = ["Look", "ZoomTeacher", "salient_windows"]

_GRID = 14
"""Cells along each side in which a window is placed."""


class Look(NamedTuple):
    """What a :class:`ZoomTeacher` sees of images, normalised for its teacher.

    Attributes:
        whole: The whole images, ``(B, 3, s, s)``, s the size of the teacher's input.
        saliency: Where they are salient, ``(B, h, w)`` float32.
        windows: Top left corners of the windows, ``(B, 2)`` int64, in pixels of images of ``side``.
        side: Height and width of the images that the windows are cut out of; a window's are s.
        closer: The windows, ``(B, 3, s, s)``.
    """

    whole: Tensor
    saliency: Tensor
    windows: Tensor
    side: int
    closer: Tensor


class ZoomTeacher(Teacher):
    """Another teacher, shown the whole image and its most salient window: ``v = normalise(v_whole + v_window)``.

    The window is a square of the original image with the most energy of an encoder's last feature map: where the
    encoder sees something at all. It is cut out at the original's resolution, so the teacher sees the object larger.
    Each bank of it takes three forward passes per image, once.

    Args:
        teacher: The teacher that looks: its name as AIS takes it, or a :class:`~ppssl.text.teachers.base.Teacher`.
        backbone: Encoder that says where to look: any timm model name.
        pretrained: timm's weights (``True``), or a local file of weights or checkpoint of ppssl.
        window: Side of the window as a fraction of the side of the image's central square, in (0, 1].
    """

    def __init__(
        self,
        teacher: str | Teacher,
        backbone: str,
        *,
        pretrained: bool | str = True,
        window: float = 0.64,
    ) -> None:
        check_range("in (0, 1]", window=window)
        self.teacher, self.backbone, self.pretrained = teacher, backbone, pretrained
        self.window = window
        where = TimmTeacher(backbone, pretrained=pretrained).name.removeprefix("timm/")
        self.name = f"{teacher_name(teacher)}, zoom {window:g} by {where}"
        self._device = torch.device("cpu")

    @cached_property
    def looker(self) -> Any:
        """The teacher that looks, loaded."""
        return load_teacher(self.teacher).to(self._device)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that says where."""
        where = TimmTeacher(
            self.backbone, pretrained=self.pretrained, image_size=self.looker.input_size
        )
        return where.to(self._device).encoder

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:  # type: ignore[override]  # computed once
        """The central square, so large that a window has the size of the teacher's input."""
        return SquareTransform(self.input_size, self.mean, self.std)

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Height and width of the central square in pixels."""
        return round(self.looker.input_size / self.window)

    @property
    def mean(self) -> tuple[float, ...]:  # type: ignore[override]
        """Mean of the teacher's input."""
        return tuple(self.looker.mean)

    @property
    def std(self) -> tuple[float, ...]:  # type: ignore[override]
        """Standard deviation of the teacher's input."""
        return tuple(self.looker.std)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Embedding dimension e."""
        return int(self.looker.dim)

    @property
    def temperature(self) -> float:  # type: ignore[override]
        """Temperature of the teacher."""
        return float(self.looker.temperature)

    @property
    def embeds_texts(self) -> bool:  # type: ignore[override]
        """Whether the teacher does."""
        return embeds_texts(self.teacher)

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the teacher."""
        return self.looker.tokenizer

    def fingerprint(self) -> str | None:
        """Of the teacher, and of the file of weights that says where to look."""
        where = TimmTeacher(self.backbone, pretrained=self.pretrained).fingerprint()
        return f"{teacher_fingerprint(self.teacher)} {where}"

    @torch.no_grad()
    def saliency(self, images: Tensor) -> Tensor:
        """Energy of the encoder's feature map of images ``(B, 3, H, W)`` in [0, 1]: ``(B, h, w)`` float32."""
        mean, std = (
            of_channels(v, images) for v in (self.encoder.info.mean, self.encoder.info.std)
        )
        return self.encoder.features((images - mean) / std).map.float().square().sum(dim=1)

    def look(self, pixels: Tensor) -> Look:
        """Whole images and their windows, of ``(B, 3, S, S)`` from ``transform``."""
        pixels = pixels.to(self._device)
        size, side = self.looker.input_size, pixels.shape[-1]
        whole = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        mean, std = (of_channels(v, pixels) for v in (self.mean, self.std))
        saliency = self.saliency(whole * std + mean)
        windows = salient_windows(saliency, size, side)
        closer = [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(pixels, windows.tolist(), strict=True)
        ]
        return Look(whole, saliency, windows, side, torch.stack(closer))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embed whole images and their windows: ``(B, 3, S, S)`` from ``transform``, to ``(B, e)``."""
        seen = self.look(pixels)
        both = self.looker.embed_images(torch.cat([seen.whole, seen.closer]))
        return F.normalize(both.unflatten(0, (2, -1)).sum(dim=0), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts by the teacher."""
        return self.looker.embed_texts(texts)

    def fits(self, text: str) -> bool:
        """Whether a text is within the limit of the teacher."""
        return bool(self.looker.fits(text))

    def to(self, device: torch.device | str) -> ZoomTeacher:
        """Move teacher and encoder, now or when they are loaded; returns itself."""
        self._device = torch.device(device)
        for part in ("looker", "encoder"):
            if part in vars(self):
                getattr(self, part).to(device)
        return self


def salient_windows(maps: Tensor, window: int, side: int) -> Tensor:
    """Top left corners of the square windows with the largest sum of a map.

    Args:
        maps: ``(B, h, w)`` >= 0, of whole square images.
        window: Height and width of the windows in pixels of the images.
        side: Height and width of the images in pixels.

    Returns:
        ``(B, 2)`` int64, top and left in pixels, each in [0, side - window]; the first of equal windows.
    """
    size = (_GRID, _GRID)
    grid = F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)
    cells = max(1, round(_GRID * window / side))
    energy = F.avg_pool2d(grid, cells, stride=1)[:, 0]
    rows, columns = energy.shape[1:]
    best = energy.flatten(1).argmax(dim=1)
    corner = torch.stack([best // columns, best % columns], dim=1)
    return (corner * (side - window) / max(1, rows - 1)).round().long()
