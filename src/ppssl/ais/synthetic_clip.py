"""``synthetic-clip``: the teacher inside the wheel, an image-text model of procedural birds.

Two towers, one space. Images: a narrow ResNet, its map pooled by mean and by maximum, and a linear layer. Texts: words,
two transformer layers, the start token's output and a linear layer. It was trained from scratch on drawn birds with
captions by ``experiments/teacher/train.py``; neither transformers nor a network is needed to run it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from ppssl.ais.teacher import Teacher
from ppssl.encoder import resnet_small
from ppssl.errors import UserError

__all__ = ["SyntheticCLIP", "TowerConfig", "Towers", "WordTokenizer", "normalise", "pack", "unpack"]

_SCHEMA = 1
_MEAN, _STD = 0.45, 0.25
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of the two towers.

    Attributes:
        image_size: Height and width of the input in pixels.
        width: Of the image tower, see :func:`ppssl.encoder.resnet_small`.
        dim: e, the length of the embeddings.
        text_width: Channels of the text tower.
        text_layers: Its transformer layers.
        text_heads: Heads of their attention.
        context: The most tokens of a sentence, the start token included.
    """

    image_size: int = 64
    width: int = 24
    dim: int = 128
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    context: int = 64


class WordTokenizer:
    """Splits a sentence into lower-case words, of which it knows those of its vocabulary.

    Token 0 pads, token 1 starts every sentence, word ``k`` of the vocabulary is token ``k + 2``. Punctuation and
    hyphens separate words and are not kept.

    Args:
        vocabulary: Lower-case words, each once.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self._ids = {word: k + 2 for k, word in enumerate(self.vocabulary)}

    def words(self, text: str) -> list[str]:
        """The words of a sentence, known or not."""
        return _WORD.findall(text.lower())

    def unknown(self, text: str) -> list[str]:
        """Its words that are not in the vocabulary."""
        return [word for word in self.words(text) if word not in self._ids]

    def encode(self, text: str) -> list[int]:
        """The start token and the known words' tokens; unknown words are left out."""
        return [1, *(self._ids[word] for word in self.words(text) if word in self._ids)]

    def batch(self, texts: Sequence[str]) -> Tensor:
        """``(n, longest)`` int64, padded with 0."""
        rows = [torch.tensor(self.encode(text)) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)


class TextTower(nn.Module):
    """Tokens ``(n, t)`` to un-normalised embeddings ``(n, e)``: a transformer, without dropout.

    It reads each word beside its neighbours: "pointed crest, fan tail" has the words of "fan crest, pointed tail".
    """

    def __init__(self, config: TowerConfig, vocabulary_size: int) -> None:
        super().__init__()
        width = config.text_width
        self.words = nn.Embedding(vocabulary_size + 2, width, padding_idx=0)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.places = nn.Parameter(0.02 * torch.randn(config.context, width))
        layer = nn.TransformerEncoderLayer(
            width,
            config.text_heads,
            2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.text_layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """The embedding of each row."""
        words = self.words(tokens)  # (n, t, width), 0 where padded
        near = self.neighbours(words.transpose(1, 2)).transpose(1, 2)
        hidden = words + near + self.places[: tokens.shape[1]]
        hidden = self.layers(hidden, src_key_padding_mask=tokens == 0)
        return self.head(hidden[:, 0])


class Towers(nn.Module):
    """Both towers, and the scale and bias of the logits that they are trained with.

    Args:
        config: Sizes.
        vocabulary_size: Number of words.
    """

    def __init__(self, config: TowerConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.image = resnet_small(width=config.width, global_pool="catavgmax")
        self.image_head = nn.Linear(16 * config.width, config.dim)
        self.text = TextTower(config, vocabulary_size)
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())
        self.logit_bias = nn.Parameter(torch.tensor(-3.0))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, e)``, L2-normalised."""
        return F.normalize(self.image_head(self.image(pixels)), dim=-1)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """``(n, t)`` to ``(n, e)``, L2-normalised."""
        return F.normalize(self.text(tokens), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """``(B, n)``: how sure it is that sentence j is true of image i, scale * cosine + bias of their embeddings."""
        return self.logit_scale.exp() * images @ texts.T + self.logit_bias


@dataclass(frozen=True)
class _Transform:
    """The original, all of it, as ``(3, size, size)`` float32 about 0."""

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        if image.mode != "RGB":
            image = image.convert("RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def normalise(pixels: Tensor) -> Tensor:
    """``(..., 3, H, W)`` uint8 to float32 about 0, as the image tower reads it."""
    return (pixels.float() / 255 - _MEAN) / _STD


def pack(
    model: Towers, config: TowerConfig, vocabulary: Sequence[str], provenance: Mapping[str, Any]
) -> bytes:
    """A safetensors file: weights in fp16, running statistics in fp32, and all else that loading needs as metadata."""
    tensors = {}
    for name, value in model.state_dict().items():
        half = value.is_floating_point() and "running_" not in name
        tensors[name] = value.half().contiguous() if half else value.contiguous()
    content = {
        "schema": _SCHEMA,
        "config": asdict(config),
        "vocabulary": list(vocabulary),
        "provenance": dict(provenance),
    }
    return save(tensors, {key: json.dumps(value, sort_keys=True) for key, value in content.items()})


def unpack(content: bytes) -> tuple[Towers, TowerConfig, WordTokenizer]:
    """The model in evaluation mode, in float32, its sizes and its tokenizer, of what :func:`pack` made.

    Raises:
        UserError: The file is of another layout.
    """
    metadata = _metadata(content)
    if metadata.get("schema") != _SCHEMA:
        raise UserError(
            f"The weights of `synthetic-clip` have layout {metadata.get('schema')}, this version reads {_SCHEMA}: "
            "make them anew with experiments/teacher/train.py."
        )
    config, tokenizer = TowerConfig(**metadata["config"]), WordTokenizer(metadata["vocabulary"])
    model = Towers(config, len(tokenizer.vocabulary))
    model.load_state_dict(load(content))  # strict; copies fp16 into float32
    return model.eval().requires_grad_(False), config, tokenizer


def _metadata(content: bytes) -> dict[str, Any]:
    """What :func:`pack` wrote beside the tensors: a safetensors file opens with its header's length and the header."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return {key: json.loads(value) for key, value in header.get("__metadata__", {}).items()}


class SyntheticCLIP(Teacher):
    """The embedded teacher of procedural birds.

    Args:
        path: A file of :func:`pack`; by default the one in the package.

    Raises:
        UserError: No such file, or one of another layout.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        content = _read(path)
        self._fingerprint = hashlib.sha256(content).hexdigest()
        self._model, self._config, self.tokenizer = unpack(content)
        self._device = torch.device("cpu")
        self.name = "synthetic-clip"
        self.dim = self._config.dim
        self.temperature = float(1 / self._model.logit_scale.exp())
        self.transform = _Transform(self._config.image_size)
        self.input_size = self._config.image_size
        self.mean, self.std = (_MEAN,) * 3, (_STD,) * 3

    def fingerprint(self) -> str:
        """SHA-256 of the weight file, which holds sizes and vocabulary too."""
        return self._fingerprint

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """``(B, 3, S, S)`` as ``transform`` makes them to ``(B, e)`` float32, L2-normalised."""
        size = self._config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise ValueError(
                f"`pixels` must be (B, 3, {size}, {size}) as `transform` makes them, got {tuple(pixels.shape)}."
            )
        return self._model.embed_images(pixels.to(self._device, torch.float32))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``(n, e)`` float32 on the CPU, L2-normalised; words that the model does not know are ignored with a warning.

        Raises:
            UserError: A text has no known word at all.
            ValueError: A text does not fit.
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
        """Whether its known words and the start token are no more than the tower's context."""
        return len(self.tokenizer.encode(text)) <= self._config.context

    def to(self, device: torch.device | str) -> SyntheticCLIP:
        """Move it; returns itself."""
        self._device = torch.device(device)
        self._model.to(self._device)
        return self

    def _check(self, texts: Sequence[str]) -> None:
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a sequence of texts, got one text: {texts!r}.")
        for text in texts:
            if len(self.tokenizer.encode(text)) == 1:
                raise UserError(
                    f"`synthetic-clip` knows no word of {text!r}: it reads descriptions of synthetic birds only."
                )
            if not self.fits(text):
                most = self._config.context - 1
                raise ValueError(f"A text must have at most {most} known words: {text!r}.")
        unknown = sorted({word for text in texts for word in self.tokenizer.unknown(text)})
        if unknown:
            from lightning.pytorch.utilities import rank_zero_warn  # seconds, and transformers

            listed = ", ".join(unknown[:20]) + " ..." * (len(unknown) > 20)
            rank_zero_warn(f"`synthetic-clip` ignores words that it does not know: {listed}.")


def _read(path: str | Path | None) -> bytes:
    if path is None:
        return files("ppssl.ais").joinpath("weights", "synthetic-clip.safetensors").read_bytes()
    if not Path(path).is_file():
        raise UserError(f"`synthetic-clip`: no such file of weights: {path}.")
    return Path(path).read_bytes()
