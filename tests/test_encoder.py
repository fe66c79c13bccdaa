from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch import nn

from ppssl import PPSSL, Anchor, FolderDataModule, LossPlugin, LossTerm, TrainingStep
from ppssl.encoder import Encoder, as_map, evaluation_mode, load_encoder
from ppssl.utils.errors import UserError
from ppssl.utils.resnet_small import resnet_small

MODELS = ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "resnet_small"]


@pytest.mark.parametrize("name", MODELS)
def test_embedding_is_timms_own_and_the_map_is_spatial(name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name, image_size=96).eval()
    images = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        features = encoder.features(images)
        torch.testing.assert_close(features.embedding, encoder.model(images))
        torch.testing.assert_close(encoder(images), encoder.model(images))
    assert features.map.shape[:2] == (3, encoder.info.channels)
    assert features.embedding.shape == (3, encoder.info.dim)
    assert (
        features.map.shape[2]
        == features.map.shape[3]
        == {"resnet_small": 12, "vit_tiny_patch16_224": 6}.get(name, 3)
    )


def test_plain_resnet_pools_the_map_by_its_mean() -> None:
    encoder = Encoder("resnet18").eval()
    features = encoder.features(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features.map.mean(dim=(2, 3)), features.embedding)


def test_vit_tokens_lie_where_their_patches_are() -> None:
    """A change in one patch changes a block-free ViT's map in that cell alone."""
    encoder = Encoder("vit_tiny_patch16_224", image_size=64, kwargs={"depth": 0}).eval()
    image = torch.zeros(1, 3, 64, 64)
    changed = image.clone()
    changed[:, :, 16:32, 48:64] = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        moved = (encoder.features(image).map - encoder.features(changed).map).abs().sum(dim=1)[0]
    assert moved[1, 3] > 0
    moved[1, 3] = 0
    assert moved.max() == 0


def test_a_mobile_net_embeds_wider_than_its_map() -> None:
    encoder = Encoder("mobilenetv3_small_100").eval()
    features = encoder.features(torch.randn(1, 3, 64, 64))
    assert (
        encoder.info.dim
        == features.embedding.shape[1]
        != encoder.info.channels
        == features.map.shape[1]
    )


def test_small_resnet_has_stride_eight() -> None:
    assert resnet_small(width=8).forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 8, 8)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_from_a_local_file_with_classifier(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    source = timm.create_model("resnet18", num_classes=10)
    path = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    encoder = Encoder("resnet18", pretrained=str(path))
    torch.testing.assert_close(encoder.model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    folder = Encoder("resnet18", pretrained=str(tmp_path)) if suffix == "safetensors" else encoder
    torch.testing.assert_close(folder.model.conv1.weight, source.conv1.weight)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    weights = timm.create_model("resnet18", num_classes=0).state_dict()
    weights["stray.weight"] = weights.pop("conv1.weight")
    torch.save(weights, path)
    with pytest.raises(UserError, match=r"missing: conv1.weight; unexpected: stray.weight"):
        Encoder("resnet18", pretrained=str(path))
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), path)
    with pytest.raises(
        UserError, match=r"do not fit the backbone: missing: layer1.* Give the `backbone`"
    ):
        Encoder("resnet34", pretrained=str(path))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"backbone": "resnet81"}, r"timm has no model `resnet81` \(did you mean resne"),
        (
            {"backbone": "local-dir:x"},
            r"'local-dir:x' is a place of weights: name the architecture",
        ),
        (
            {"backbone": "resnet18", "kwargs": {"colour": 1}},
            r"does not take these `backbone_kwargs` .*colour.*: `--model.backbone_kwargs=null`.",
        ),
        ({"backbone": "resnet18", "pretrained": "nowhere.pth"}, "no such file: nowhere.pth"),
        (
            {"backbone": "resnet_small", "pretrained": True},
            "no pretrained weights for `resnet_small`",
        ),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(**kwargs)


def test_load_encoder_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such checkpoint"):
        load_encoder(tmp_path / "none.ckpt")
    torn = tmp_path / "torn.ckpt"
    torch.save({"state_dict": torch.randn(1000)}, torn)
    torn.write_bytes(torn.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_encoder(torn)
    torch.save({"state_dict": {}}, torn)
    with pytest.raises(UserError, match="no checkpoint of ppssl"):
        load_encoder(torn)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_gives_each_part_its_own_mode_back(training: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train(training)
    model[0].eval()  # frozen statistics stay frozen
    with evaluation_mode(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [training, False, training]
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert [part.training for part in model.modules()] == [training, False, training]


@pytest.mark.parametrize("name", [*MODELS, "swin_tiny_patch4_window7_224"])
def test_the_embedding_is_a_function_of_the_map(name: str) -> None:
    """Finite differences along the gradient: tokens and channels-last models too."""
    torch.manual_seed(0)
    kwargs = {"depth": 2, "global_pool": "avg"} if "vit" in name else {}
    kwargs = {"depths": (1, 1, 1, 1)} if "swin" in name else kwargs
    encoder = Encoder(name, image_size=64, kwargs=kwargs).eval().double()
    features = encoder.features(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(features.embedding.square().sum(), features.map)
    assert gradient.shape == features.map.shape
    assert gradient.abs().sum(dim=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("name", [*MODELS, "swin_tiny_patch4_window7_224"])
def test_stages_are_timms_own_and_on_the_way(name: str) -> None:
    torch.manual_seed(0)
    kwargs = {"depth": 12} if "vit" in name else {}
    kwargs = {"depths": (1, 1, 1, 1)} if "swin" in name else kwargs
    encoder = Encoder(name, image_size=64, kwargs=kwargs).eval()
    images = torch.randn(2, 3, 64, 64)
    with encoder.stages() as stages:
        features = encoder.features(images)
    wanted = {
        "resnet18": ["act1", "layer1", "layer2", "layer3", "layer4"],
        "vit_tiny_patch16_224": [f"blocks.{i}" for i in (0, 3, 6, 8, 11)],
        "resnet_small": ["stages.0", "stages.1", "final_conv"],
    }
    assert list(stages) == wanted.get(name, list(stages))
    assert len(stages) >= 3
    gradients = torch.autograd.grad(features.embedding.square().sum(), list(stages.values()))
    assert all(g.abs().max() > 0 for g in gradients)
    seen = len(stages)
    stages.clear()
    encoder(images)
    assert seen > 0
    assert not stages  # the hooks are gone
    if name in ("resnet18", "vit_tiny_patch16_224"):  # timm's own extraction of the same places
        places = [0, 1, 2, 3, 4] if name == "resnet18" else [0, 3, 6, 8, 11]
        with encoder.stages() as again:
            encoder(images)
        _, theirs = encoder.model.forward_intermediates(images, indices=places)
        for ours, expected in zip(again.values(), theirs, strict=True):
            torch.testing.assert_close(as_map(encoder.model, ours), expected)


# -- batch norm -------------------------------------------------------------------------------------------------------


def _batch_norm(backbone: str, policy: Any, **kwargs: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(backbone, batch_norm=policy, **kwargs)
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return encoder


@pytest.mark.parametrize("backbone", ["resnet_small", "resnet18", "tf_efficientnet_lite0"])
def test_frozen_batch_norm_neither_uses_nor_moves_batch_statistics(backbone: str) -> None:
    encoder = _batch_norm(backbone, "frozen")
    images = torch.randn(4, 3, 32, 32)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.eval()
    expected = encoder(images).detach()
    for _ in range(2):  # back from evaluation, too
        encoder.train()
        assert encoder.training
        torch.testing.assert_close(encoder(images), expected)
        torch.testing.assert_close(encoder(images[:1]), expected[:1], atol=1e-4, rtol=1e-4)
        encoder.eval()
    assert all(value.equal(before[name]) for name, value in encoder.state_dict().items())
    encoder.train()
    encoder(images).square().mean().backward()
    layer = next(m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert layer.weight.grad.abs().sum() > 0  # its affine parameters are trained
    batch = _batch_norm(backbone, "batch").train()
    assert not torch.allclose(batch(images), expected)
    assert batch.uses_batch_statistics
    assert not encoder.uses_batch_statistics


def test_what_is_inside_a_frozen_layer_is_trained() -> None:
    """timm's layers may hold an activation or dropout of their own."""
    encoder = _batch_norm("resnet_small", "frozen").train()
    inside = [m for n, m in encoder.named_modules() if ".bn.act" in n or ".bn.drop" in n]
    assert len(inside) > 0
    assert all(m.training for m in inside)


def test_automatic_batch_norm_is_frozen_for_pretrained_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), path)
    assert Encoder("resnet18", pretrained=str(path)).batch_norm == "frozen"
    encoder = Encoder("resnet18", pretrained=path)  # type: ignore[arg-type]  # a path is taken too
    assert encoder.model.conv1.weight.equal(
        Encoder("resnet18", pretrained=str(path)).model.conv1.weight
    )
    assert Encoder("resnet18").batch_norm == "batch"
    assert Encoder("resnet18", pretrained=str(path), batch_norm="batch").batch_norm == "batch"
    with pytest.raises(ValueError, match=r"`batch_norm` must be one of .* got 'half'"):
        Encoder("resnet18", batch_norm="half")  # type: ignore[arg-type]


def test_encoders_without_batch_norm_use_no_batch_statistics() -> None:
    vit = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    encoder = Encoder("vit_tiny_patch16_224", image_size=32, kwargs=vit)
    assert encoder.batch_norm == "batch"
    assert not encoder.uses_batch_statistics


class _Still(LossPlugin):
    """A plugin with a layer in evaluation mode, which its author may have forgotten."""

    def __init__(self, evaluate: bool) -> None:
        super().__init__()
        self.evaluate = evaluate
        self.layer = nn.Dropout().train(not evaluate)

    def forward(self, step: TrainingStep) -> LossTerm:
        """Nothing."""
        return LossTerm(step.z.sum() * 0)


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
@pytest.mark.parametrize("forgotten", [False, True])
def test_only_what_is_frozen_on_purpose_is_in_evaluation_mode_without_a_warning(
    batch_norm: Any, forgotten: bool, image_folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    plugins = {"anchor": Anchor(), "still": _Still(forgotten)}
    kwargs: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    model = PPSSL(**kwargs, batch_norm=batch_norm, plugins=plugins, lr=0.1)
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(**quiet, max_steps=1, enable_checkpointing=False).fit(model, data)
    told = [str(w.message) for w in recwarn if "in eval mode at the start" in str(w.message)]
    assert len(told) == forgotten
