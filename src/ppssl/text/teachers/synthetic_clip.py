"""``synthetic-clip``: the teacher in the package, an image-text model of synthetic birds.

It was trained from scratch on synthetic birds with captions by ``experiments/teacher/train.py`` and needs neither
transformers nor a network. Its architecture is in :mod:`ppssl.text.teachers.towers`; other files of that script can be
loaded too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppssl.text.teachers.base import SYNTHETIC, Teacher, embedded_weights
from ppssl.text.teachers.towers import MEAN, STD, normalise, unpack
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand, expand_text

__all__ = ["SyntheticCLIP"]


@dataclass(frozen=True)
class _Transform:
    """Resize the whole original to ``(3, size, size)`` and normalise it, float32."""

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        if image.mode != "RGB":
            image = image.convert("RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1))


class SyntheticCLIP(Teacher):
    """Teacher of synthetic birds.

    Args:
        path: A file of :func:`ppssl.text.teachers.towers.pack`, whose path is the teacher's name; ``None``: the one in
            the package.

    Raises:
        UserError: The file is missing, incomplete or of another format version.
    """

    def __init__(self, path: AnyPath | None = None) -> None:
        self.name = SYNTHETIC if path is None else expand_text(path)
        content = embedded_weights() if path is None else _read(expand(path))
        self._model, self._config, self.tokenizer = unpack(content, self.name)
        self._device = torch.device("cpu")
        self.dim = self._config.dim
        self.temperature = float(1 / self._model.logit_scale.exp())
        self.transform = _Transform(self._config.image_size)
        self.input_size = self._config.image_size
        self.mean, self.std = (MEAN,) * 3, (STD,) * 3

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embed images ``(B, 3, S, S)`` from ``transform``: ``(B, e)`` float32, L2-normalised."""
        size = self._config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise ValueError(
                f"`pixels` must be (B, 3, {size}, {size}) from `transform`, got {tuple(pixels.shape)}."
            )
        return self._model.embed_images(pixels.to(self._device, torch.float32))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: ``(n, e)`` float32 on the CPU, L2-normalised; unknown words are ignored with a warning.

        Raises:
            UserError: A text has no known word.
            ValueError: A text exceeds the text encoder's limit.
        """
        self._check(texts)
        if not texts:
            return torch.zeros(0, self.dim)
        rows = [
            self._model.embed_tokens(self.tokenizer.batch(texts[k : k + 256]).to(self._device))
            for k in range(0, len(texts), 256)
        ]
        return torch.cat(rows).cpu()

    def fits(self, text: str) -> bool:
        """Whether the start token and the known words are within the context length."""
        return len(self.tokenizer.encode(text)) <= self._config.context

    def to(self, device: torch.device | str) -> SyntheticCLIP:
        """Move the model to a device; returns itself."""
        self._device = torch.device(device)
        self._model.to(self._device)
        return self

    def _check(self, texts: Sequence[str]) -> None:
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a sequence of texts, got one text: {texts!r}.")
        for text in texts:
            if len(self.tokenizer.encode(text)) == 1:
                raise UserError(
                    f"`{self.name}` knows no word of {text!r}: use it for descriptions of synthetic birds only."
                )
            if not self.fits(text):
                most = self._config.context - 1
                raise ValueError(f"A text must have at most {most} known words: {text!r}.")
        unknown = sorted({word for text in texts for word in self.tokenizer.unknown(text)})
        if unknown:
            from lightning.pytorch.utilities import rank_zero_warn  # a slow import

            listed = ", ".join(unknown[:20]) + " ..." * (len(unknown) > 20)
            rank_zero_warn(f"`{self.name}` ignores unknown words: {listed}.")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"`teacher`: no such file of weights: {path}.")
    return path.read_bytes()
