"""Teachers from transformers: CLIP and SigLIP. Imported only to compute a bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl.text.teachers.base import Teacher
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand_text

__all__ = ["CLIPTeacher"]

_KINDS = ("clip", "siglip")
"""Model types; checkpoints of SigLIP 2 at a fixed size are `siglip`, and `siglip2` is the one of any size."""


class CLIPTeacher(Teacher):
    """Frozen CLIP or SigLIP of transformers (Radford et al., arXiv 2103.00020; Zhai et al., arXiv 2303.15343).

    Reads safetensors only and runs no code from the hub.

    Args:
        name_or_path: A hub id, or a folder with model, image processor and tokenizer that ``save_pretrained`` wrote.

    Raises:
        UserError: The model is missing, incomplete, or neither CLIP nor SigLIP.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, processor, self.tokenizer = _load(name_or_path)
        config = self.model.config
        self.limit: int = config.text_config.max_position_embeddings
        self.padding = True if config.model_type == "clip" else "max_length"
        self.temperature = float(1 / self.model.logit_scale.detach().exp())
        is_clip = config.model_type == "clip"
        self.dim: int = config.projection_dim if is_clip else config.vision_config.hidden_size
        self.transform = _Transform(processor)
        self.mean, self.std = tuple(processor.image_mean), tuple(processor.image_std)
        self.input_size: int = config.vision_config.image_size

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embed images, in half precision on a GPU."""
        device = self.model.device
        with torch.inference_mode(), torch.autocast(device.type, enabled=device.type != "cpu"):
            features = self.model.get_image_features(pixels.to(device)).pooler_output
        return F.normalize(features.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, 256 at a time, in float32: they are few, and every target depends on them."""
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
        """Whether the text has no more tokens than the text encoder has positions."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) <= self.limit

    def to(self, device: torch.device | str) -> CLIPTeacher:
        """Move the model to a device; returns itself."""
        self.model.to(device)
        return self


_INPUTS = ("input_ids", "attention_mask")


class _Transform:
    """Preprocessing of one image by the model's image processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def _load(name: str) -> tuple[Any, Any, Any]:
    """Load the model in evaluation mode, its image processor and its tokenizer."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    name = expand_text(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in _KINDS:
            raise UserError(
                f"`teacher` must be one of {', '.join(_KINDS)}, got `{name}`, which is a `{config.model_type}`."
            )
        model = AutoModel.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"`teacher`: cannot read `{name}` ({reason}). Give a folder with a CLIP or SigLIP and its tokenizer "
            "(safetensors), a hub id if there is network access, or `synthetic-clip`."
        ) from error
    return model.eval().requires_grad_(False), processor, tokenizer
