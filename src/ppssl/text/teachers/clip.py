"""CLIP and SigLIP of transformers as teachers. Imported only where a bank has to be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl.text.teachers.base import Teacher
from ppssl.utils.errors import UserError

__all__ = ["CLIPTeacher"]

_KINDS = ("clip", "siglip", "siglip2")


class CLIPTeacher(Teacher):
    """A CLIP or SigLIP (Radford et al., arXiv 2103.00020; Zhai et al., arXiv 2303.15343), frozen.

    Reads safetensors only and runs no code from the hub.

    Args:
        name_or_path: A hub id, or a folder with model, image processor and tokenizer, as ``save_pretrained`` leaves it.

    Raises:
        UserError: It is not there, not complete, or neither CLIP nor SigLIP.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, processor, self.tokenizer = _load(name_or_path)
        config = self.model.config
        self.limit: int = config.text_config.max_position_embeddings
        self.padding = True if config.model_type == "clip" else "max_length"
        self.temperature = float(1 / self.model.logit_scale.detach().exp())
        self.dim: int = (
            config.projection_dim
            if config.model_type == "clip"
            else config.vision_config.hidden_size
        )
        self.transform = _Transform(processor)
        self.mean, self.std = tuple(processor.image_mean), tuple(processor.image_std)
        self.input_size: int = config.vision_config.image_size

    def embed_images(self, pixels: Tensor) -> Tensor:
        """CLIP's image features, in half precision on a GPU."""
        device = self.model.device
        with torch.inference_mode(), torch.autocast(device.type, enabled=device.type != "cpu"):
            features = self.model.get_image_features(pixels.to(device)).pooler_output
        return F.normalize(features.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """CLIP's text features, 256 texts at a time, in float32: they are few and everything is measured by them."""
        return torch.cat([self._embed(texts[i : i + 256]) for i in range(0, len(texts), 256)])

    def _embed(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts),
            padding=self.padding,
            truncation=True,
            max_length=self.limit,
            return_tensors="pt",
        )
        inputs = {k: v.to(self.model.device) for k, v in tokens.items() if k in _INPUTS}
        with torch.inference_mode():
            features = self.model.get_text_features(**inputs).pooler_output
        return F.normalize(features.float(), dim=-1).cpu()

    def fits(self, text: str) -> bool:
        """Whether it has no more tokens than CLIP has positions."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) <= self.limit

    def to(self, device: torch.device | str) -> CLIPTeacher:
        """Move the model."""
        self.model.to(device)
        return self


_INPUTS = ("input_ids", "attention_mask")


class _Transform:
    """The image processor's own preprocessing of one image."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def _load(name: str) -> tuple[Any, Any, Any]:
    """Model in evaluation mode, image processor, tokenizer."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in _KINDS:
            raise UserError(
                f"`teacher`: `{name}` is a `{config.model_type}`; it must be one of {', '.join(_KINDS)}."
            )
        model = AutoModel.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"`teacher`: cannot read `{name}` ({reason}). Give a folder that holds a CLIP or SigLIP with tokenizer "
            "(safetensors), a hub id where there is network, or `synthetic-clip`."
        ) from error
    return model.eval().requires_grad_(False), processor, tokenizer
