"""Tiny, randomly initialised models: teachers saved as the real ones are, and an encoder that costs next to nothing."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ppssl import Configurable


class TinyEncoder(nn.Module, Configurable):
    """A convolution with batch norm, where it does not matter what is trained: a fifth of the time of ResNet-small."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 8, stride=8, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP of 8 dimensions with image processor and byte-level tokenizer, 16 text positions."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTextConfig,
        CLIPTokenizer,
        CLIPVisionConfig,
    )

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    text = CLIPTextConfig(
        vocab_size=len(words), num_hidden_layers=1, max_position_embeddings=16, **size, **ends
    )
    vision = CLIPVisionConfig(num_hidden_layers=1, image_size=16, patch_size=8, **size)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


def tiny_siglip(folder: Path, seed: int = 0) -> Path:
    """A SigLIP of 16 dimensions with image processor and a tokenizer of letters, 16 text positions."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
    )

    torch.manual_seed(seed)
    letters = {c: i for i, c in enumerate("_? abcdefghijklmnopqrstuvwxyz,.")}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="_", unk_token="?", model_max_length=16
    ).save_pretrained(folder)
    size = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    text = {"vocab_size": len(letters), "max_position_embeddings": 16} | size
    config = SiglipConfig(
        text_config=text, vision_config={"image_size": 16, "patch_size": 8} | size
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def tiny_language_model(folder: Path, words: str, seed: int = 0) -> Path:
    """A Llama with a token a word and one for the end of a line, so that any output is lines of these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    vocabulary = ["?", "<end>", "\n", *words.split()]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="?", eos_token="<end>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
