"""GeM as a pooling of timm's models of convolutions: training, files, classifiers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from ppssl import PPSSL, FineTune, FolderDataModule, MoCo, UserError, load_encoder
from ppssl.encoder import Encoder
from ppssl.utils.gem import EXPONENT, GeM

GEM = {"global_pool": "gem"}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


def reference(feature_map: torch.Tensor, exponent: float) -> torch.Tensor:
    """Channel by channel in float64."""
    values = feature_map.double().numpy()
    pooled = [
        [np.mean([max(v, 1e-6) ** exponent for v in c.ravel()]) ** (1 / exponent) for c in image]
        for image in values
    ]
    return torch.tensor(pooled, dtype=torch.float64)


@pytest.mark.parametrize("exponent", [1.0, 3.0, 6.5])
def test_it_is_the_equation(exponent: float) -> None:
    feature_map = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pooled = GeM(exponent=exponent)(feature_map)
    assert pooled.shape == (2, 3, 1, 1)
    expected = reference(feature_map, exponent).float()
    torch.testing.assert_close(pooled.flatten(1), expected, rtol=1e-5, atol=1e-6)


def test_between_mean_and_maximum() -> None:
    feature_map = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    mean, largest = feature_map.mean(dim=(2, 3)), feature_map.amax(dim=(2, 3))
    torch.testing.assert_close(GeM(exponent=1.0)(feature_map).flatten(1), mean)
    torch.testing.assert_close(
        GeM(exponent=400.0)(feature_map.double()).flatten(1), largest.double(), rtol=0.02, atol=0
    )


def test_gradients_are_finite_differences() -> None:
    gem = GeM().double()
    feature_map = torch.rand(2, 2, 3, 3, dtype=torch.float64, requires_grad=True) + 0.1
    assert torch.autograd.gradcheck(lambda x, e: _with(gem, x, e), (feature_map, gem.exponent))


def _with(gem: GeM, feature_map: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    pooled: torch.Tensor = torch.func.functional_call(gem, {"exponent": exponent}, (feature_map,))
    return pooled


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    feature_map = (torch.rand(2, 3, 4, 4) * 60).to(dtype)  # 60 ** 3 is more than float16 holds
    pooled = GeM()(feature_map)
    assert pooled.dtype == dtype
    expected = reference(feature_map, 3.0).to(dtype)
    torch.testing.assert_close(pooled.flatten(1), expected)


@pytest.mark.parametrize(
    "name", ["resnet18", "test_efficientnet", "resnet_small", "regnetx_002", "mobilenetv2_035"]
)
def test_the_embedding_is_the_map_pooled_by_it(name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name, kwargs=GEM).eval()
    images = torch.randn(2, 3, 64, 64)
    found = encoder.features(images)
    torch.testing.assert_close(encoder(images), found.embedding)
    expected = reference(found.map.detach(), 3.0).float()
    torch.testing.assert_close(found.embedding, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto"])
def test_other_layouts_are_pooled_over_their_places(name: str) -> None:
    """Where each channel is the same everywhere, each mean of it is that value."""
    kwargs = {"depths": (1, 1, 1, 1)}
    torch.manual_seed(0)
    gem, plain = Encoder(name, kwargs=kwargs | GEM).eval(), Encoder(name, kwargs=kwargs).eval()
    feature_map = torch.rand(2, 1, 1, gem.info.channels).expand(2, 7, 7, -1) + 0.1
    if "convnext" in name:
        feature_map = feature_map.permute(0, 3, 1, 2)
    plain.load_state_dict(gem.state_dict(), strict=False)
    torch.testing.assert_close(
        gem.model.forward_head(feature_map), plain.model.forward_head(feature_map)
    )


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "levit_128s"])
def test_what_pools_otherwise_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"`{name}` does not pool a feature map by its mean"):
        Encoder(name, kwargs=GEM)


def test_weights_of_other_programs_have_no_exponent(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    encoder = Encoder("test_resnet", str(tmp_path / "model.safetensors"), kwargs=GEM)
    state = encoder.model.state_dict()
    assert [v.item() for k, v in state.items() if k.endswith(EXPONENT)] == [3.0]
    assert all(v.equal(state[k]) for k, v in model.state_dict().items() if not k.startswith("fc."))


def test_the_exponent_is_trained_saved_and_fine_tuned(image_folder: Path, tmp_path: Path) -> None:
    data = FolderDataModule(image_folder, image_size=64, batch_size=8, num_workers=0)
    model = PPSSL(
        "test_resnet", backbone_kwargs=GEM, contrastive=MoCo(dim=8, queue_size=16), lr=0.1, seed=0
    )
    trainer = Trainer(max_steps=2, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    (exponent,) = (v for k, v in model.encoder.named_parameters() if k.endswith(EXPONENT))
    assert exponent.item() != 3.0
    decays = [
        group["weight_decay"]
        for group in trainer.optimizers[0].param_groups
        if any(p is exponent for p in group["params"])
    ]
    assert decays == [0.0]
    images = torch.randn(2, 3, 64, 64)
    encoder = load_encoder(tmp_path / "last.ckpt")
    torch.testing.assert_close(encoder(images), model.encoder.eval()(images))

    classifier = FineTune(backbone=None, pretrained=str(tmp_path / "last.ckpt"), seed=0)
    Trainer(max_steps=1, **QUIET).fit(classifier, data)
    exponents = [v for k, v in classifier.state_dict().items() if k.endswith(EXPONENT)]
    assert exponents
    assert exponents[0].item() == pytest.approx(exponent.item(), abs=0.1)
