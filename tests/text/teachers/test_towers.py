"""The towers of the embedded teacher, their tokenizer and their file."""

import pytest
import torch
from torch.nn import functional as F

from ppssl.text.teachers.towers import TowerConfig, Towers, WordTokenizer, pack, unpack
from ppssl.utils.errors import UserError


def small_model() -> tuple[Towers, TowerConfig, list[str]]:
    torch.manual_seed(0)
    config = TowerConfig(image_size=32, width=4, dim=8, text_width=8, text_heads=2, context=6)
    words = ["beak", "bird", "red"]
    return Towers(config, len(words)).eval(), config, words


def test_pack_and_unpack_give_the_same_embeddings() -> None:
    model, config, words = small_model()
    again, sizes, tokenizer = unpack(pack(model, config, words, {"seed": 0}))
    pixels, tokens = torch.randn(3, 3, 32, 32), tokenizer.batch(["red beak", "a bird"])
    assert (sizes, tokenizer.vocabulary) == (config, tuple(words))
    assert not any(p.requires_grad for p in again.parameters())
    torch.testing.assert_close(
        again.embed_images(pixels), model.embed_images(pixels).detach(), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(
        again.embed_tokens(tokens), model.embed_tokens(tokens).detach(), atol=5e-3, rtol=0
    )


def test_logits_are_scaled_cosines() -> None:
    model, _, _ = small_model()
    images, texts = F.normalize(torch.randn(2, 8), dim=1), F.normalize(torch.randn(3, 8), dim=1)
    for i in range(2):
        for j in range(3):
            expected = model.logit_scale.exp() * (images[i] * texts[j]).sum() + model.logit_bias
            torch.testing.assert_close(model.logits(images, texts)[i, j], expected)


def test_tokenizer_by_hand() -> None:
    tokenizer = WordTokenizer(["beak", "bird", "red"])
    assert tokenizer.words("A red-billed bird_2, isn't it") == [
        "a",
        "red",
        "billed",
        "bird",
        "2",
        "isn't",
        "it",
    ]
    assert tokenizer.encode("a red  BEAK of the bird") == [1, 4, 2, 3]
    assert tokenizer.unknown("a red crest") == ["a", "crest"]
    assert tokenizer.batch(["red", "red bird beak"]).tolist() == [[1, 4, 0, 0], [1, 4, 3, 2]]


def test_a_file_of_another_layout_is_refused() -> None:
    model, config, words = small_model()
    content = pack(model, config, words, {}).replace(b'"schema":"1"', b'"schema":"7"')
    with pytest.raises(UserError, match="format version 7, expected 1"):
        unpack(content)
