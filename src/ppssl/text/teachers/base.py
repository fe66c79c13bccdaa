"""What teaches: an image-text model that puts pictures and sentences into one space (METHOD, "AIS"; F3)."""

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

__all__ = [
    "SYNTHETIC",
    "Teacher",
    "embedded_weights",
    "hash_folder",
    "local_folder",
]

SYNTHETIC = "synthetic-clip"
"""The name of the embedded teacher."""

_FILES = (".safetensors", ".json", ".txt", ".model")


class Teacher(ABC):
    """An image-text model, frozen, that is gone from memory when the bank is made (D7).

    Attributes:
        name: What a bank is found again by: a hub id, a folder, a file, or ``"synthetic-clip"``.
        dim: e, the length of its embeddings.
        temperature: The model's own, 1 / exp(logit_scale).
        transform: Makes the model's input ``(3, H, W)`` float32 of an original RGB image, by the model's own
            preprocessing; picklable and light, because loader workers run it.
        input_size: Height and width of that input in pixels.
        mean: Mean of each channel that its input is normalised with, in units of [0, 1].
        std: Standard deviation of each channel, likewise.
        tokenizer: Its method ``encode`` makes a text's tokens, start and end signs included.
    """

    name: str
    dim: int
    temperature: float
    transform: Callable[[Image.Image], Tensor]
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: Any

    @abstractmethod
    def embed_images(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` as ``transform`` makes them, on any device: ``(B, e)`` float32, L2-normalised, no graph."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``(n, e)`` float32 on the CPU, L2-normalised, no graph; each text must fit (:meth:`fits`)."""

    @abstractmethod
    def fits(self, text: str) -> bool:
        """Whether the text encoder reads the text to its end."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Teacher:
        """Move it; returns itself."""

    def embed_views(self, views: Tensor) -> Tensor:
        """Embeddings of augmented views ``(B, 3, h, w)`` in units of [0, 1], resized: ``(B, e)`` (D7, online)."""
        size = [self.input_size, self.input_size]
        pixels = F.interpolate(views.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            torch.tensor(v, device=views.device).view(3, 1, 1) for v in (self.mean, self.std)
        )
        return self.embed_images((pixels - mean) / std)


def embedded_weights() -> bytes:
    """The file in the package that holds the embedded teacher: weights, sizes and vocabulary."""
    return (
        resources.files("ppssl.text.teachers")
        .joinpath(f"weights/{SYNTHETIC}.safetensors")
        .read_bytes()
    )


def local_folder(name: str) -> Path | None:
    """The folder that holds a teacher: its own, or where the hub's cache keeps it; ``None`` where there is none."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path, and no hub id
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def hash_folder(folder: Path) -> str:
    """SHA-256 of the names and contents of its weight, configuration and vocabulary files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _FILES and p.is_file()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
