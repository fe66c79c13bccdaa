"""Architecture of ``synthetic-clip``: image and text tower, tokenizer and weights file.

The image tower is a narrow ResNet with mean and maximum pooling and a linear layer. The text tower is a word embedding
with two transformer layers and a linear layer on the output of the start token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from ppssl.utils.errors import UserError
from ppssl.utils.resnet_small import resnet_small

__all__ = ["MEAN", "STD", "TowerConfig", "Towers", "WordTokenizer", "normalise", "pack", "unpack"]

MEAN, STD = 0.45, 0.25
"""Mean and standard deviation for the normalisation of every channel, in units of [0, 1]."""

_SCHEMA = 1
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of the two towers.

    Attributes:
        image_size: Height and width of the input in pixels.
        width: Width of the image tower, see :func:`ppssl.encoder.resnet_small`.
        dim: Embedding dimension e.
        text_width: Channels of the text tower.
        text_layers: Transformer layers of the text tower.
        text_heads: Attention heads per transformer layer.
        context: Largest number of tokens of a sentence, including the start token.
    """

    image_size: int = 64
    width: int = 24
    dim: int = 128
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    context: int = 64


class WordTokenizer:
    """Tokenizer of lower-case words with a fixed vocabulary.

    Token 0 is padding, token 1 starts every sentence, word ``k`` of the vocabulary is token ``k + 2``. Punctuation and
    hyphens separate words and are dropped.

    Args:
        vocabulary: Distinct lower-case words.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self._ids = {word: k + 2 for k, word in enumerate(self.vocabulary)}

    def words(self, text: str) -> list[str]:
        """All words of a sentence, in lower case."""
        return _WORD.findall(text.lower())

    def unknown(self, text: str) -> list[str]:
        """Words of a sentence that are not in the vocabulary."""
        return [word for word in self.words(text) if word not in self._ids]

    def encode(self, text: str) -> list[int]:
        """Tokens of a sentence: the start token and its known words; unknown words are skipped."""
        return [1, *(self._ids[word] for word in self.words(text) if word in self._ids)]

    def batch(self, texts: Sequence[str]) -> Tensor:
        """Tokens of several sentences, ``(n, longest)`` int64, padded with 0."""
        rows = [torch.tensor(self.encode(text)) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)


class TextTower(nn.Module):
    """Text tower: tokens ``(n, t)`` to un-normalised embeddings ``(n, e)``, a transformer without dropout.

    A convolution adds each word's neighbours: "pointed crest, fan tail" has the words of "fan crest, pointed tail".
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
        """Embed each row of tokens."""
        words = self.words(tokens)  # (n, t, width), 0 where padded
        near = self.neighbours(words.transpose(1, 2)).transpose(1, 2)
        hidden = words + near + self.places[: tokens.shape[1]]
        hidden = self.layers(hidden, src_key_padding_mask=tokens == 0)
        return self.head(hidden[:, 0])


class Towers(nn.Module):
    """Image and text tower, with the scale and bias of the training logits.

    Args:
        config: Sizes of the towers.
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
        """Embed images: ``(B, 3, H, W)`` to ``(B, e)``, L2-normalised."""
        return F.normalize(self.image_head(self.image(pixels)), dim=-1)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed tokens: ``(n, t)`` to ``(n, e)``, L2-normalised."""
        return F.normalize(self.text(tokens), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Logits that sentence j is true of image i, ``(B, n)``: scale * cosine + bias of their embeddings."""
        return self.logit_scale.exp() * images @ texts.T + self.logit_bias


def normalise(pixels: Tensor) -> Tensor:
    """Normalise ``(..., 3, H, W)`` uint8 to float32 for the image tower."""
    return (pixels.float() / 255 - MEAN) / STD


def pack(
    model: Towers, config: TowerConfig, vocabulary: Sequence[str], provenance: Mapping[str, Any]
) -> bytes:
    """Write a safetensors file: weights in fp16, running statistics in fp32; sizes and vocabulary as metadata."""
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


def unpack(
    content: bytes, name: str = "synthetic-clip"
) -> tuple[Towers, TowerConfig, WordTokenizer]:
    """Read the file of :func:`pack`: the model in evaluation mode and float32, its sizes and its tokenizer.

    Args:
        content: Content of the file.
        name: Name of the teacher, for messages.

    Raises:
        UserError: The file is incomplete, or of another format version.
    """
    metadata = _metadata(content)
    if metadata.get("schema") != _SCHEMA:
        raise UserError(
            f"The weights of `{name}` have format version {metadata.get('schema')}, expected {_SCHEMA}: "
            "make them again with experiments/teacher/train.py."
        )
    config, tokenizer = TowerConfig(**metadata["config"]), WordTokenizer(metadata["vocabulary"])
    model = Towers(config, len(tokenizer.vocabulary))
    try:
        model.load_state_dict(load(content))  # strict; copies fp16 into float32
    except SafetensorError as error:
        raise UserError(
            f"The weights of `{name}` are damaged ({error}): copy the file again."
        ) from error
    return model.eval().requires_grad_(False), config, tokenizer


def _metadata(content: bytes) -> dict[str, Any]:
    """Read the metadata of :func:`pack`'s file, whose header follows its length at the start of the file.

    It is empty if another program wrote the file.
    """
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        return {key: json.loads(value) for key, value in header.get("__metadata__", {}).items()}
    except (ValueError, AttributeError):
        return {}
