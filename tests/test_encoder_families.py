"""Every family of timm: a feature map and timm's own embedding, or one line when the encoder is made."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from ppssl import IADM, PPSSL, FineTune, FolderDataModule, MoCo
from ppssl.encoder import Encoder, EncoderInfo
from ppssl.inference.embeddings import embed_loader
from ppssl.inference.explain import View, explain
from ppssl.losses.iadm.output_gradcam import output_gradcam
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.timm_features import NoFeatureMapError, as_map, feature_shapes

SIZE = 64
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", {"depth": 1}),
    "byobnet": ("test_byobnet", {}),
    "cait": ("cait_xxs24_224", {"depth": 2}),
    "convit": ("convit_tiny", {"depth": 2, "local_up_to_layer": 1}),
    "convnext": ("test_convnext", {}),
    "davit": ("davit_tiny", {}),
    "deepseek_vit": ("deepseek_vit_412m", {"depth": 1, "img_size": 56}),
    "deit": ("deit_tiny_distilled_patch16_224", {"depth": 2}),
    "densenet": ("densenet121", {}),
    "efficientnet": ("test_efficientnet", {}),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", {"depth": 2}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "gemma4_vit": ("gemma4_vit_167m", {"depth": 1}),
    "hrnet": ("hrnet_w18_small", {}),
    "maxxvit": ("test_coatnet", {}),
    "mambaout": ("test_mambaout", {}),
    "metaformer": ("poolformer_s12", {}),
    "mobilenetv3": ("lcnet_035", {}),
    "mvitv2": ("mvitv2_small_cls", {}),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", {"depth": 1}),
    "nest": ("nest_tiny", {}),
    "nfnet": ("test_nfnet", {}),
    "qwen3_vit": ("qwen3_vit_88m", {"depth": 1}),
    "regnet": ("regnetx_002", {}),
    "resnet": ("test_resnet", {}),
    "resnetv2": ("resnetv2_18", {}),
    "sequencer": ("sequencer2d_s", {"layers": (1, 1, 1, 1)}),
    "sknet": ("skresnet18", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1)}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", {"depths": (1, 1, 1, 1)}),
    "vision_transformer": ("test_vit", {}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {"depth": 1}),
    "vision_transformer_relpos": ("test_vit_relpos", {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", {"depth": 1}),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
}
"""Small members; of the other families it is the first one by name, which is no larger than 130 M parameters."""

TOKENS: list[tuple[str, dict[str, Any]]] = [
    ("coat_lite_tiny", {}),
    ("gmlp_ti16_224", {}),
    ("hiera_tiny_224", {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 2, 1)}),
    ("levit_128s", {}),
    ("mixer_s32_224", {}),
    ("mvitv2_tiny", {}),
    ("naflexvit_base_patch16_parfac_gap", {"depth": 1}),
    ("resmlp_12_224", {}),
    ("tnt_s_patch16_224", {"depth": 1}),
    ("twins_pcpvt_small", {"depths": (1, 1, 1, 1)}),
    ("twins_svt_small", {"depths": (1, 1, 1, 1)}),
    ("volo_d1_224", {}),
    ("xcit_nano_12_p8_224", {"depth": 1}),
]
"""Tokens without the grid of their first layer, with or without class tokens."""

BESIDE: list[tuple[str, dict[str, Any]]] = [
    ("coat_tiny", {}),
    ("crossvit_tiny_240", {"img_size": 240, "depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}),
    ("efficientvim_m1", {}),
    ("pit_ti_224", {}),
    ("pit_ti_distilled_224", {}),
]
"""The embedding is of class tokens or of several maps."""


def _member(family: str) -> tuple[str, dict[str, Any]]:
    names = timm.list_models(module=family, exclude_filters=["*large*", "*huge*", "*giant*"])
    return TINY.get(family) or ((names or timm.list_models(module=family))[0], {})


def _made(name: str, kwargs: dict[str, Any]) -> Encoder:
    """The encoder for small images, or if one line refuses these, for those of its weights."""
    torch.manual_seed(0)
    size = None if "img_size" in kwargs else SIZE
    with contextlib.suppress(UserError):
        return Encoder(name, image_size=size, kwargs=kwargs)
    message = r"^[^\n]*(of 64 pixels|and `image_size` 64)[^\n]*$"
    with pytest.raises(UserError, match=message):
        Encoder(name, image_size=size, kwargs=kwargs)
    return Encoder(name, kwargs=kwargs)


def _images(encoder: Encoder) -> Tensor:
    spec = encoder.spec
    own = spec["kwargs"].get("img_size") or encoder.model.pretrained_cfg["input_size"][-1]
    size = spec["image_size"] or own
    return torch.randn(2, 3, size, size)


def _check(name: str, kwargs: dict[str, Any]) -> Encoder:
    encoder = _made(name, kwargs).eval()
    assert {value.device.type for value in encoder.state_dict().values()} == {"cpu"}
    images = _images(encoder)
    with torch.no_grad():
        features, hidden = encoder.features(images), encoder.model.forward_features(images)
        own = encoder.model.forward_head(hidden, pre_logits=True)
        torch.testing.assert_close(features.embedding, own)
        torch.testing.assert_close(encoder(images), own)
        if isinstance(hidden, list) or hidden.ndim == 3:  # places, as timm has them
            norm = not name.startswith("hiera")  # it has none before its head
            _, maps = encoder.model.forward_intermediates(images, indices=1, norm=norm)
            torch.testing.assert_close(features.map, maps[-1])
    assert features.embedding.shape == (2, encoder.info.dim)
    assert features.map.shape[:2] == (2, encoder.info.channels)
    assert features.map.shape[2] == features.map.shape[3]
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_every_family(family: str) -> None:
    _check(*_member(family))


@pytest.mark.parametrize(("name", "kwargs"), TOKENS)
def test_tokens_become_a_map_that_the_embedding_is_pooled_from(
    name: str, kwargs: dict[str, Any]
) -> None:
    encoder = _check(name, kwargs)
    features = encoder.features(_images(encoder))
    (gradient,) = torch.autograd.grad(features.embedding.square().sum(), features.map)
    assert bool(gradient.any()) == encoder.info.pools_map


@pytest.mark.parametrize(("name", "kwargs"), BESIDE)
def test_a_map_beside_the_embedding(name: str, kwargs: dict[str, Any]) -> None:
    assert not _check(name, kwargs).info.pools_map


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("levit_128s", {}),
        pytest.param("pit_ti_224", {}, marks=pytest.mark.slow),
        pytest.param("xcit_nano_12_p8_224", {}, marks=pytest.mark.slow),
    ],
)
def test_new_families_take_training_steps(
    name: str, kwargs: dict[str, Any], image_folder: Path
) -> None:
    plugins = {"iadm": IADM(start=0, full=0, every=1)}
    contrastive = MoCo(queue_size=16)
    model = PPSSL(
        name, image_size=SIZE, backbone_kwargs=kwargs, contrastive=contrastive, plugins=plugins
    )
    before = {key: value.clone() for key, value in model.encoder.named_parameters()}
    _trainer().fit(model, _data(image_folder))
    assert any(not value.equal(before[key]) for key, value in model.encoder.named_parameters())


def _trainer() -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return Trainer(**quiet, max_steps=2, enable_checkpointing=False, num_sanity_val_steps=0)


def _data(folder: Path, size: int = SIZE) -> FolderDataModule:
    return FolderDataModule(str(folder), image_size=size, batch_size=8, num_workers=0)


@pytest.mark.parametrize("kind", [PPSSL, FineTune])
def test_images_of_another_size_than_the_models(kind: Any, image_folder: Path) -> None:
    model = kind("vit_tiny_patch16_224", image_size=96, backbone_kwargs={"depth": 1})
    message = (
        r"`vit_tiny_patch16_224` does not take images of 64 pixels \(Input height \(64\) doesn't match "
        r"model \(96\)\): set `model.image_size` and `data.image_size` to the same size"
    )
    with pytest.raises(UserError, match=message):
        _trainer().fit(model, _data(image_folder))
    with pytest.raises(UserError, match=message):
        _trainer().validate(model, _data(image_folder), verbose=False)


def test_images_of_another_size_for_a_trained_encoder(image_folder: Path) -> None:
    encoder = Encoder("vit_tiny_patch16_224", image_size=96, kwargs={"depth": 1})
    data = _data(image_folder)
    data.setup()
    message = (
        r"^The encoder does not take images of 64 pixels \(Input height \(64\) .* set `image_size`"
    )
    with pytest.raises(UserError, match=message):
        embed_loader(encoder, data.test_dataloader()[0], data)
    with pytest.raises(UserError, match=message):
        explain(encoder, image_folder / "test", view=View(SIZE, 1.0))
    embed_loader(Encoder("test_vit").model, data.test_dataloader()[0], data)


@pytest.mark.parametrize(
    ("name", "has_map"),
    [
        ("levit_128s", True),
        ("xcit_nano_12_p8_224", True),
        ("cait_xxs24_224", True),  # class tokens come late
        ("coat_tiny", False),  # its stages are lists of layers, which are not called
        ("pit_ti_224", False),  # stages are tuples
        ("twins_svt_small", False),  # timm names stages that do not exist
    ],
)
def test_grad_cam_of_the_last_stage_if_it_is_a_map(name: str, has_map: bool) -> None:
    encoder = Encoder(name, image_size=SIZE).eval()
    for parameter in encoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    images = torch.randn(2, 3, SIZE, SIZE)
    maps = output_gradcam(encoder, lambda x: encoder(x).square().sum(dim=1), images)
    assert (maps is not None) == has_map
    assert maps is None or maps.shape == (2, SIZE, SIZE)
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in encoder.parameters())
    with encoder.stages() as stages:
        encoder(images)
    assert bool(stages) == (name not in ("coat_tiny", "twins_svt_small"))


def test_a_model_of_any_size_takes_the_datas(image_folder: Path) -> None:
    """timm's tiny ViT resamples its position embeddings itself."""
    _trainer().fit(PPSSL("test_vit", contrastive=MoCo(queue_size=16)), _data(image_folder))


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "resnet_small"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"in_chans": 1},
            r"`in_chans` is 1, and encoders see images of 3 channels .* leave it out",
        ),
        ({"in_chans": 4}, r"`in_chans` is 4"),
        ({"global_pool": ""}, r"gives \(.*\) for an image and not one pooled .* `global_pool`"),
        ({"global_pool": "sum"}, r"timm cannot create `.*` with `backbone_kwargs` .*'sum'.* \("),
        ({"features_only": True}, r"features_only"),
        ({"num_classes": 5}, r"does not take these `backbone_kwargs` .*num_classes"),
    ],
)
def test_arguments_that_make_no_encoder(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Encoder(name, kwargs=kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("halonet_h1", 64, r"does not take images of 64 pixels \(AssertionError\).* such as 256"),
        ("inception_v4", 32, r"does not take images of 32 pixels .* such as 299"),
        ("efficientformer_l1", 64, r"does not take images of 64 pixels .* such as 224"),
        ("crossvit_tiny_240", 64, r"does not take images of 64 pixels|`image_size` 64"),
    ],
)
def test_sizes_that_a_model_does_not_take(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Encoder(name, image_size=size)
    assert "\n" not in str(caught.value)


def test_an_image_size_of_0_is_not_none() -> None:
    with pytest.raises(ArgumentError, match="`image_size` must be >= 1, got 0"):
        Encoder("resnet18", image_size=0)


@pytest.mark.parametrize("pool", ["catavgmax", "max"])
def test_the_length_of_other_poolings_of_timm(pool: str) -> None:
    info = Encoder("test_resnet", kwargs={"global_pool": pool}).info
    assert (info.dim, info.channels) == ({"catavgmax": 192, "max": 96}[pool], 96)


def test_the_sizes_are_found_without_random_numbers_and_leave_the_model_as_it_is() -> None:
    encoder = Encoder("levit_128s", image_size=SIZE)
    modes = [part.training for part in encoder.modules()]
    state = torch.get_rng_state()
    encoder.check_image_size(SIZE)
    assert torch.get_rng_state().equal(state)
    assert [part.training for part in encoder.modules()] == modes


class _Counts(nn.Module):
    """A user's own model that reads values while it runs, which the meta device has not."""

    num_features = 3
    pretrained_cfg: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012

    def forward_features(self, images: Tensor) -> Tensor:
        return images if images.sum().item() == 0 else images * 2

    def forward_head(self, hidden: Tensor, pre_logits: bool = True) -> Tensor:
        return hidden.mean(dim=(2, 3))


def test_a_model_that_cannot_run_on_the_meta_device() -> None:
    assert feature_shapes(_Counts(), "counts", 8) == (3, 3, False, 8)


def test_the_gradient_at_a_map_that_is_not_pooled_is_refused() -> None:
    for info in (EncoderInfo(8, 8, (), (), pools_map=False), Encoder("pit_ti_224").info):
        with pytest.raises(UserError, match="`source: output` asks for the gradient"):
            IADM(source="output").build(info)
    IADM(source="output").build(Encoder("test_resnet").info)


def test_grids_of_tokens() -> None:
    tokens = torch.arange(17.0).view(1, 17, 1)  # one class token, not named
    assert as_map(nn.Identity(), tokens).flatten().tolist() == list(range(1, 17))
    assert as_map(nn.Identity(), tokens[:, 1:]).flatten().tolist() == list(range(1, 17))
    late = nn.Identity()
    late.num_prefix_tokens = 1  # in its last layers only
    assert as_map(late, tokens[:, 1:]).shape == (1, 1, 4, 4)
    for no_map in (tokens[:, :3], tokens[0], [tokens], (tokens, tokens)):
        with pytest.raises(NoFeatureMapError):
            as_map(nn.Identity(), no_map)  # type: ignore[arg-type]
