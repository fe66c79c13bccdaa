from typing import Any

import pytest
import timm
import torch
from lightly.loss import NTXentLoss

from bases import VIT, assert_same_gradients, batch_of, make
from ppssl import MoCoV3
from ppssl.encoder import Encoder
from ppssl.losses.contrastive.momentum import automatic_momentum
from reference.contrastive import moco_v3_loops


def _branches(encoder: Any, base: Any, batch: Any) -> tuple[Any, Any]:
    """Predictions and keys of both views, of any length."""
    predictions = tuple(base.predictor(base.head(encoder(view))) for view in batch["views"])
    keys = tuple(base.key_head(base.key_encoder(view)) for view in batch["views"])
    return predictions, keys


def _differing(**options: Any) -> tuple[Any, Any]:
    """An encoder and a MoCo v3 whose momentum copies have moved away."""
    encoder, base = make("MoCoV3", **options)
    with torch.no_grad():
        for p in [*base.key_encoder.parameters(), *base.key_head.parameters()]:
            p.add_(0.1 * torch.randn_like(p))
    return encoder, base


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("index", [[0, 1], [5, 3, 8, 1, 2], [4, 4, 1, 2, 4]])
def test_loss_and_gradient_are_the_papers(
    index: list[int], temperature: float, head_norm: Any
) -> None:
    encoder, base = _differing(temperature=temperature, head_norm=head_norm)
    trained = [*encoder.parameters(), *base.head.parameters(), *base.predictor.parameters()]
    batch = batch_of(index)
    loss = base(encoder, batch, seed=0).loss
    expected = moco_v3_loops(*_branches(encoder, base, batch), index, temperature)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(loss, expected, trained)


def test_loss_is_lightlys_with_the_other_keys_as_memory_bank() -> None:
    encoder, base = _differing(temperature=0.3)
    batch = batch_of(list(range(5)))
    loss = base(encoder, batch, seed=0).loss
    predictions, keys = _branches(encoder, base, batch)
    for i in range(5):
        expected = torch.zeros(())
        for view in (0, 1):
            key = torch.nn.functional.normalize(keys[1 - view])
            criterion = NTXentLoss(temperature=0.3, memory_bank_size=(4, 8))
            criterion.memory_bank.bank = key[torch.arange(5) != i]
            with torch.no_grad():  # the bank stays as it is
                value = criterion(predictions[view][i : i + 1].detach(), key[i : i + 1])
            expected = expected + 0.6 * value
        torch.testing.assert_close(loss[i].detach(), expected)


def test_the_patch_projection_of_a_vit_is_frozen() -> None:
    for freeze in (True, False):
        encoder = Encoder(VIT["backbone"], False, 32, VIT["backbone_kwargs"])
        MoCoV3(freeze_patch_projection=freeze).build(encoder, num_images=4)
        frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
        patches = {"model.patch_embed.proj.weight", "model.patch_embed.proj.bias"}
        assert frozen == (patches if freeze else set())


def test_a_convolutional_encoder_is_trained_as_a_whole() -> None:
    encoder, _ = make("MoCoV3")
    assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_small_r26_s32_224"])
def test_patches_of_other_transformers(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    base = MoCoV3()
    from ppssl.losses.contrastive.moco_v3 import _patch_projections

    assert base.freeze_patch_projection
    assert len(_patch_projections(model)) == 1


def test_heads_are_the_papers() -> None:
    _, base = make("MoCoV3")
    linear = [m for m in base.head if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linear] == [16, 16, 8]
    assert [m.out_features for m in base.predictor if hasattr(m, "out_features")] == [16, 8]
    norms = [m for m in [*base.head, *base.predictor] if isinstance(m, torch.nn.BatchNorm1d)]
    assert [m.affine for m in norms] == [True, True, False, True, False]


def test_momentum_of_the_paper_but_in_short_runs() -> None:
    for steps, start in ((10**6, 0.99), (300, automatic_momentum(300))):
        encoder, base = make("MoCoV3")
        with torch.no_grad():
            base.head[0].weight.add_(1.0)
        base.after_step(encoder, progress=0.0, total_steps=steps)
        apart = base.head[0].weight - base.key_head[0].weight
        torch.testing.assert_close(apart, torch.full_like(apart, start))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be > 0, got 0"),
        ({"projection_layers": 0}, "`projection_layers` must be >= 1, got 0"),
        ({"momentum": -0.1}, r"`momentum` must be in \[0, 1\], got -0.1"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoCoV3(**kwargs)
