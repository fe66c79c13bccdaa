"""Base class of teachers: frozen image-text models that embed images and texts in one space (:ref:`F3 <f3>`)."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand_text

__all__ = [
    "SYNTHETIC",
    "Teacher",
    "embedded_weights",
    "files_hash",
    "images_only",
    "of_channels",
]

SYNTHETIC = "synthetic-clip"
"""Name of the teacher in the package."""

_FILES = (".safetensors", ".json", ".txt", ".model")


class Teacher(ABC, Configurable):
    """Base class of a frozen image-text model, which is only needed to compute a bank (:ref:`D7 <d7>`).

    A teacher of your own implements the abstract methods, sets the attributes, and keeps each constructor argument
    under its name (see :mod:`ppssl.utils.config`).

    Attributes:
        name: Name that identifies its banks: a hub id, a folder, a file, or ``"synthetic-clip"``.
        dim: Embedding dimension e.
        temperature: Temperature of the model, 1 / exp(logit_scale).
        transform: The model's preprocessing, from an original RGB image to its input ``(3, H, W)`` float32; picklable
            and small, because data loader workers run it.
        input_size: Height and width of the input in pixels.
        mean: Per-channel mean for normalisation, in units of [0, 1].
        std: Per-channel standard deviation for normalisation, in units of [0, 1].
        embeds_texts: Whether there is a text encoder, as AIS needs one.
        tokenizer: Tokenizer with a method ``encode`` from a text to its tokens, including start and end tokens.
    """

    name: str
    dim: int
    temperature: float
    transform: Callable[[Image.Image], Tensor]
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: Any
    embeds_texts: bool = True

    def fingerprint(self) -> str | None:
        """Hash of the weights, by which a bank of other weights is refused; ``None``: ``name`` alone tells."""
        return None

    @abstractmethod
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embed images ``(B, 3, H, W)`` from ``transform``: ``(B, e)`` float32, L2-normalised, no gradient."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts that fit (:meth:`fits`): ``(n, e)`` float32 on the CPU, L2-normalised, no gradient."""

    @abstractmethod
    def fits(self, text: str) -> bool:
        """Whether a text is within the text encoder's limit."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Teacher:
        """Move the model to a device; returns itself."""

    def embed_views(self, views: Tensor) -> Tensor:
        """Resize and embed augmented views ``(B, 3, h, w)`` in [0, 1] (:ref:`D7 <d7>`, online): ``(B, e)``."""
        size = [self.input_size, self.input_size]
        pixels = F.interpolate(views.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (of_channels(v, views) for v in (self.mean, self.std))
        return self.embed_images((pixels - mean) / std)


def images_only(name: str) -> UserError:
    """The error of a teacher that is asked for texts and has no text encoder."""
    return UserError(
        f"`{name}` embeds images only, and AIS needs a teacher of images and texts, such as a CLIP: give AIS another "
        "`teacher`, or use the plugin ppssl.Distillation, which needs no texts."
    )


def of_channels(values: Sequence[float], like: Tensor) -> Tensor:
    """Values of channels for broadcasting with images, ``(3, 1, 1)`` on the device of a tensor."""
    return torch.tensor(values, device=like.device).view(-1, 1, 1)


def embedded_weights() -> bytes:
    """Read the file of the teacher in the package: weights, sizes and vocabulary."""
    return (
        resources.files("ppssl.text.teachers")
        .joinpath(f"weights/{SYNTHETIC}.safetensors")
        .read_bytes()
    )


def files_hash(name: AnyPath) -> str | None:
    """What tells the files of a model from others; ``None`` if they are not on this machine.

    Args:
        name: A folder, of whose weight, configuration and vocabulary files it is the SHA-256 of names and contents; or
            a hub id, of which it is the revision: files are added to the hub's cache when they are first asked for.
    """
    name = expand_text(name)
    if Path(name).is_dir():
        return _hash_folder(Path(name))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path, not a hub id
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _FILES and p.is_file()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
