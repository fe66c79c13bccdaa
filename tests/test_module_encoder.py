"""Encoders that are modules: of torchvision, transformers, timm, or written by hand."""

import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import (
    AutoImageProcessor,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from ppssl import (
    AIS,
    IADM,
    PPSSL,
    Anchor,
    AtomicCheckpointIO,
    Configurable,
    FineTune,
    FolderDataModule,
    LinearProbe,
    MoCo,
    UserError,
    embed,
    evaluate,
    evaluate_rows,
    export,
    load_encoder,
    load_transform,
)
from ppssl.checkpointing.view import View
from ppssl.cli.main import main
from ppssl.encoder import Encoder, evaluation_mode
from ppssl.inference.embedding_file import read_embeddings
from ppssl.inference.preprocessing import Preprocessing
from save_at import SaveAt

SIZE = 64


class Hand(nn.Module, Configurable):
    """Two convolutions."""

    def __init__(self, width: int = 4, *, slope: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(slope),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        )
        self.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.1)}

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Plain(nn.Module):
    """Keeps none of its arguments."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, width, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


def _resnet() -> nn.Module:
    net = torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], norm_layer=nn.BatchNorm2d
    )
    return nn.Sequential(OrderedDict(list(net.named_children())[:-2]))


def _dino(**kwargs: Any) -> Dinov2Model:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    return Dinov2Model(Dinov2Config(**sizes, image_size=SIZE, patch_size=8, **kwargs))


def _convnext() -> ConvNextModel:
    return ConvNextModel(
        ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=SIZE)
    )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "torchvision": _resnet,
    "dinov2": _dino,
    "convnext": _convnext,
    "hand-written": Hand,
}
TOLD = ("dinov2", "convnext", "hand-written")
by_name = pytest.mark.parametrize("name", MODULES)
trained_by_name = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "torchvision")) for n in MODULES],
)
"""The ResNet of torchvision has no narrow form."""


def _module(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name]()


def _model(name: str, **kwargs: Any) -> PPSSL:
    options: dict[str, Any] = {"contrastive": MoCo(dim=8, queue_size=16), "lr": 0.05, "seed": 0}
    return PPSSL(_module(name), **options | kwargs)


def _data(images: Path) -> FolderDataModule:
    return FolderDataModule(images, image_size=SIZE, batch_size=8, num_workers=0, seed=0)


def _fit(
    model: Any, images: Path, folder: Path, steps: int, *, resume: Path | None = None, **kwargs: Any
) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        **kwargs,
    )
    trainer.fit(model, _data(images), ckpt_path=resume)
    return trainer


def _checkpoint(model: Any, images: Path, folder: Path, steps: int = 2) -> Path:
    path = folder / "model.ckpt"
    _fit(model, images, folder, steps).save_checkpoint(path)
    return path


def _assert_same(first: Any, second: Any) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


# -- feature map and embedding ----------------------------------------------------------------------------------------


def _expected(name: str, module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Map and embedding by the library's own names."""
    if name == "dinov2":
        tokens = module(images).last_hidden_state
        grid = tokens[:, 1:].transpose(1, 2).reshape(len(images), 16, 8, 8)
        return grid, module(images).pooler_output
    if name == "convnext":
        output = module(images)
        return output.last_hidden_state, output.pooler_output
    return module(images), module(images).mean(dim=(2, 3))


@by_name
def test_map_and_embedding_are_those_of_the_library(name: str) -> None:
    encoder = Encoder(_module(name), image_size=SIZE)
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad(), evaluation_mode(encoder):
        features = encoder.features(images)
        feature_map, embedding = _expected(name, encoder.model.module, images)
        torch.testing.assert_close(encoder(images), embedding)
    torch.testing.assert_close(features.map, feature_map)
    torch.testing.assert_close(features.embedding, embedding)
    assert encoder.info.channels == feature_map.shape[1]
    assert encoder.info.dim == encoder.model.num_features == embedding.shape[1]
    assert encoder.info.mean == (
        (0.5, 0.4, 0.3) if name == "hand-written" else (0.485, 0.456, 0.406)
    )


def test_class_tokens_and_registers_are_no_places() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Dinov2WithRegistersConfig(
        **sizes, image_size=SIZE, patch_size=8, num_register_tokens=4
    )
    encoder = Encoder(Dinov2WithRegistersModel(config)).eval()
    images = torch.randn(2, 3, 16, 40)  # two rows of five patches
    tokens = encoder.model.module(images).last_hidden_state
    feature_map = encoder.features(images).map
    assert tokens.shape[1] == 1 + 4 + 10
    assert feature_map.shape == (2, 16, 2, 5)
    torch.testing.assert_close(feature_map[:, :, 1, 3], tokens[:, 5 + 5 + 3])


class Returns(nn.Module):
    """Returns whatever a function makes of a map."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 16, stride=16)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(self.layer(images))


@pytest.mark.parametrize(
    "function",
    [
        lambda f: {"map": f},
        lambda f: f.flatten(2).transpose(1, 2),
        lambda f: torch.cat([f.new_ones(len(f), 1, 4), f.flatten(2).transpose(1, 2)], dim=1),
        lambda f: (f, f.mean(dim=(2, 3))),
        lambda f: [f.flatten(2).transpose(1, 2), f.mean(dim=(2, 3), keepdim=True)],
    ],
)
def test_what_a_module_may_return(function: Callable[[Tensor], Any]) -> None:
    encoder = Encoder(Returns(function))
    images = torch.randn(2, 3, 64, 64)
    feature_map = encoder.model.module.layer(images)
    torch.testing.assert_close(encoder.features(images).map, feature_map)
    torch.testing.assert_close(encoder(images), feature_map.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda f: f.mean(dim=(2, 3)), r"`Returns` returns \(2, 4\) .*children\(\)\)\[:-2\]"),
        (lambda f: {"a": f, "b": f}, r"`Returns` returns a `dict` for images, and an encoder must"),
        (lambda f: (f, f), r"`Returns` returns \(2, 4, 14, 14\) for images"),
        (
            lambda f: f.flatten(2).transpose(1, 2)[:, :-9],
            "returns 187 tokens, which make no square",
        ),
    ],
)
def test_what_it_may_not(function: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(Returns(function))


def test_other_errors_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"`backbone_kwargs` {'width': 4} are arguments of a timm"):
        PPSSL(Hand(), backbone_kwargs={"width": 4})
    with pytest.raises(
        ValueError, match=r"`backbone` must be .* got the class `Hand`: give an object"
    ):
        PPSSL(Hand)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"`Sequential` does not take images of 224 pixels .*set"):
        PPSSL(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4), nn.Unflatten(1, (4, 1, 1)))
        )


def test_a_timm_model_loses_its_classifier() -> None:
    net = timm.create_model("resnet18", num_classes=10).eval()
    encoder = Encoder(net).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(encoder(images), net.forward_features(images).mean(dim=(2, 3)))
    assert encoder.info.dim == 512
    assert encoder.spec["backbone"] is None


def test_of_a_timm_model_the_name_is_told(image_folder: Path, tmp_path: Path) -> None:
    model = PPSSL(timm.create_model("resnet10t"), contrastive=MoCo(dim=8))
    with pytest.warns(UserWarning, match=r"is a `ResNet`.*by its name .*`backbone='resnet10t'`"):
        _fit(model, image_folder, tmp_path, 1)


def test_a_class_of_the_main_file_is_told(image_folder, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(Hand, "__module__", "__main__")
    with caplog.at_level("INFO"):
        path = _checkpoint(PPSSL(Hand(), contrastive=MoCo(dim=8)), image_folder, tmp_path, 1)
    assert "`backbone` is a `Hand` of this program's main file" in caplog.text
    with pytest.raises(UserError, match=r"`Hand` was defined in the main file of another program"):
        load_encoder(path)
    load_encoder(path, backbone=Hand())


def test_feature_extractors_of_torchvision() -> None:
    net = torchvision.models.mobilenet_v3_small().eval()
    encoder = Encoder(create_feature_extractor(net, {"features": "map"})).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), net.features(images).mean(dim=(2, 3)))


def test_parameters_without_influence_are_not_trained() -> None:
    """DDP would wait for their gradients."""
    encoder = Encoder(_dino(), image_size=SIZE)
    frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert frozen == ["model.module.embeddings.mask_token"]
    features = encoder.features(torch.randn(2, 3, SIZE, SIZE))
    features.embedding.sum().backward()
    missing = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    net = Hand()
    net.layers[0].requires_grad_(False)  # frozen by its owner
    frozen = [name for name, p in Encoder(net).named_parameters() if not p.requires_grad]
    assert frozen == ["model.module.layers.0.weight"]


# -- saved, loaded, resumed -------------------------------------------------------------------------------------------


@trained_by_name
def test_it_trains_and_is_saved_loaded_and_resumed(
    name: str, image_folder: Path, tmp_path: Path
) -> None:
    start, path = _module(name).state_dict(), tmp_path / "step2.ckpt"
    straight, resumed = _model(name), _model(name)
    _fit(straight, image_folder, tmp_path, 4, callbacks=[SaveAt(2, path)])
    _fit(resumed, image_folder, tmp_path, 4, resume=path)
    _assert_same(resumed, straight)
    path = tmp_path / "model.ckpt"
    resumed.trainer.save_checkpoint(path)
    trained = straight.encoder.model.module.state_dict()
    assert any(not value.equal(start[n]) for n, value in trained.items())
    torch.load(path, weights_only=True)
    given = {} if name in TOLD else {"backbone": MODULES[name]()}
    loaded, encoder = PPSSL.load_from_checkpoint(path, **given), load_encoder(path, **given)
    _assert_same(loaded, straight)
    _assert_same(encoder, straight.encoder.model)
    assert loaded.encoder.info == straight.encoder.info
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(loaded.eval()(images), encoder(images))
    mean = torch.tensor(straight.encoder.info.mean)
    assert load_transform(path).transforms[-1].mean == pytest.approx(mean.tolist())


def test_one_that_cannot_be_told_has_to_be_given(image_folder: Path, tmp_path: Path) -> None:
    model = PPSSL(Plain(4), contrastive=MoCo(dim=8))
    with pytest.warns(
        UserWarning, match=r"`backbone` is a `Plain`, .*from_checkpoint\(path, backb"
    ):
        path = _checkpoint(model, image_folder, tmp_path)
    with pytest.raises(
        UserError, match=r"made of a `Plain`.*`load_encoder\(path, backbone=\.\.\.\)"
    ):
        load_encoder(path)
    with pytest.raises(
        UserError, match=r"`backbone` of the `PPSSL` was a `Plain`.* backbone=\.\.\."
    ):
        PPSSL.load_from_checkpoint(path)
    with pytest.raises(UserError, match=r"made of a `Plain`.* give it, `backbone=\.\.\.`"):
        FineTune(pretrained=str(path))
    with pytest.raises(UserError, match=r"of another shape: module.layer.bias"):
        load_encoder(path, backbone=Plain(5))
    _assert_same(load_encoder(path, backbone=Plain(4)), model.encoder.model)
    _assert_same(PPSSL.load_from_checkpoint(path, backbone=Plain(4)), model)
    assert load_transform(path).transforms[-1].std == pytest.approx([0.229, 0.224, 0.225])


def test_a_normalisation_that_was_set_by_hand_comes_back(
    image_folder: Path, tmp_path: Path
) -> None:
    module: Any = _dino()
    module.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    path = _checkpoint(PPSSL(module, contrastive=MoCo(dim=8)), image_folder, tmp_path)
    loaded = PPSSL.load_from_checkpoint(path)
    assert loaded.encoder.info.mean == pytest.approx((0.1, 0.2, 0.3))
    assert load_encoder(path).pretrained_cfg["std"] == pytest.approx([0.4, 0.5, 0.6])
    tuned = FineTune(pretrained=str(path))
    assert tuned.encoder.info.mean == pytest.approx((0.1, 0.2, 0.3))


def test_weights_of_a_file_by_the_modules_own_names(tmp_path: Path) -> None:
    source = _module("torchvision")
    torch.save(source.state_dict(), tmp_path / "own.pth")
    torch.manual_seed(1)
    encoder = Encoder(_resnet(), pretrained=str(tmp_path / "own.pth"))
    _assert_same(encoder.model.module, source)
    assert encoder.batch_norm == "frozen"  # as for all pretrained weights
    with pytest.raises(UserError, match="do not fit the backbone"):
        Encoder(Hand(), pretrained=str(tmp_path / "own.pth"))


# -- used -------------------------------------------------------------------------------------------------------------


@trained_by_name
def test_plugins_train_with_it(name: str, image_folder: Path, tmp_path: Path) -> None:
    plugins = {"iadm": IADM(start=0.0, full=0.0, every=1, hidden=4), "anchor": Anchor()}
    model = _model(name, plugins=plugins)
    trainer = _fit(model, image_folder, tmp_path, 1, log_every_n_steps=1)
    assert trainer.logged_metrics["train/loss_iadm"] > 0
    trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    given = {} if name in TOLD else {"backbone": MODULES[name]()}
    _assert_same(PPSSL.load_from_checkpoint(path, **given), model)


@trained_by_name
def test_ais_teaches_it(name: str, image_folder: Path, tmp_path: Path, clip_folder: Path) -> None:
    (tmp_path / "corpus.txt").write_text("red wings\na green belly\nblue tail feathers\n")
    ais = AIS(str(tmp_path / "corpus.txt"), teacher=str(clip_folder))
    model, plain = _model(name, plugins={"ais": ais}), _model(name)
    trainer = _fit(model, image_folder, tmp_path, 2, log_every_n_steps=1)
    _fit(plain, image_folder, tmp_path, 2)
    assert trainer.logged_metrics["train/loss_ais"] > 0
    weights = plain.encoder.state_dict()
    assert any(not value.equal(weights[n]) for n, value in model.encoder.state_dict().items())
    trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    given = {} if name in TOLD else {"backbone": MODULES[name]()}
    loaded = PPSSL.load_from_checkpoint(path, **given)
    _assert_same(loaded, model)
    (ranked,) = loaded.eval().describe(torch.randn(1, 3, SIZE, SIZE))
    assert {text for text, _ in ranked} == {"red wings", "a green belly", "blue tail feathers"}


@pytest.mark.parametrize("name", ["dinov2", "hand-written"])
def test_it_is_embedded_and_evaluated(name: str, image_folder: Path, tmp_path: Path) -> None:
    model, data = _model(name), _data(image_folder)
    path = _checkpoint(model, image_folder, tmp_path, steps=1)
    out = embed(model, data, tmp_path / "rows.parquet")
    rows = torch.cat([part.features for part, _ in read_embeddings(out)])
    assert rows.shape == (36, model.encoder.info.dim)
    first, random = evaluate_rows(path, data, random=True)
    assert (first.encoder, random.encoder) == ("checkpoint", "random")
    assert first.results.metrics == pytest.approx(evaluate(model, data).metrics)
    json.dumps(random.to_dict())


@pytest.mark.parametrize("cls", [FineTune, LinearProbe])
@pytest.mark.parametrize("name", ["convnext", "hand-written"])
def test_classifiers_start_from_it(name: str, cls: Any, image_folder: Path, tmp_path: Path) -> None:
    model = _model(name)
    path = _checkpoint(model, image_folder, tmp_path, steps=1)
    classifier = cls(pretrained=str(path))
    _assert_same(classifier.encoder.model, model.encoder.model)
    _fit(classifier, image_folder, tmp_path, 1).save_checkpoint(path)
    _assert_same(cls.load_from_checkpoint(path), classifier)
    _assert_same(load_encoder(path), classifier.encoder.model)


def _photograph(width: int, height: int) -> Image.Image:
    """Smooth noise, in which a shift by a pixel is seen."""
    rng = np.random.default_rng(width)
    small = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("size", "crop"), [(32, 0.875), (48, 0.75), (64, 1.0)])
@pytest.mark.parametrize("squash", [False, True])
def test_the_image_processor_of_transformers_prepares_images_alike(
    size: int, crop: float, squash: bool, tmp_path: Path
) -> None:
    """Within one of 255 levels, but for a crop that begins one pixel earlier; squashed images nearly so."""
    ours = Preprocessing(View(size, crop, squash), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.transformers()))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    std, short, shifted = torch.tensor(ours.std).view(3, 1, 1), round(size / crop), 0
    for width, height in ((200, 150), (150, 201), (97, 100), (40, 41), (333, 120)):
        image = _photograph(width, height)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        expected = ours.transform()(image)
        assert theirs.shape == expected.shape
        levels = 255 * std * (theirs - expected).abs()
        long = int(short * max(width, height) / min(width, height))
        if squash:
            assert levels.mean() < 3
        elif 3 not in ((short - size) % 4, (long - size) % 4):
            assert levels.max() < 1.01
            assert levels.mean() < 0.1
        else:
            shifted += 1
    assert shifted < 5


@pytest.mark.slow
def test_a_folder_of_transformers_has_its_image_processor(
    image_folder: Path, tmp_path: Path
) -> None:
    path = _checkpoint(_model("convnext"), image_folder, tmp_path)
    export(path, "hf", tmp_path / "hf")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    image = _photograph(60, 60)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    expected = load_transform(path)(image)[None]
    torch.testing.assert_close(pixels, expected, atol=1.01 / 255 / 0.224, rtol=0)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "AutoImageProcessor.from_pretrained" in card
    assert "by one of 255 levels at most" in card


@pytest.mark.slow
def test_export_to_transformers_and_the_refusal_of_others(
    image_folder: Path, tmp_path: Path
) -> None:
    path = _checkpoint(_model("convnext"), image_folder, tmp_path)
    assert export(path, "hf", tmp_path / "hf") < 1e-5
    (tmp_path / "hand").mkdir()
    path = _checkpoint(_model("hand-written"), image_folder, tmp_path / "hand")
    for to in ("timm", "torchvision", "hf"):
        with pytest.raises(UserError, match=r"a `Hand` and no model of timm's: choose `--to onnx`"):
            export(path, to, tmp_path / "out")  # type: ignore[arg-type]


# -- command line -----------------------------------------------------------------------------------------------------

OWN = """
from ppssl import Configurable
from torch import nn


class Plain(nn.Sequential):
    def __init__(self, width: int = 4):
        super().__init__(nn.Conv2d(3, width, 8, stride=8), nn.ReLU())


class Own(Plain, Configurable):
    def __init__(self, width: int = 4):
        super().__init__(width)


def make(width: int = 4) -> Plain:
    return Plain(width)
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user, that Python finds."""
    (tmp_path / "own_encoder.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_encoder"
    sys.modules.pop("own_encoder", None)


def _arguments(images: Path, folder: Path, *more: str) -> list[str]:
    options = {"data.root": images, "data.image_size": SIZE, "data.batch_size": 8}
    options |= {"data.num_workers": 0, "trainer.max_steps": 1, "trainer.default_root_dir": folder}
    options |= {"trainer.enable_progress_bar": False, "model.backbone_kwargs": "null"}
    recipe = ["fit", "--config", "ppssl:folder/pretrain"]
    return [*recipe, *(f"--{name}={value}" for name, value in options.items()), *more]


@pytest.mark.parametrize(
    ("options", "width"),
    [
        (["--model.backbone=own_encoder.Own"], 4),
        (["--model.backbone=own_encoder.Own", "--model.backbone.width=6"], 6),
        (["--model.backbone={class_path: own_encoder.Own, init_args: {width: 6}}"], 6),
    ],
)
def test_a_class_on_the_command_line(
    options: list[str],
    width: int,
    own_module: str,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(_arguments(image_folder, tmp_path / "run", *options)) == 0
    (path,) = (tmp_path / "run").rglob("last.ckpt")
    assert load_encoder(path).module[0].out_channels == width  # type: ignore[union-attr, index]
    del sys.modules[own_module]
    command = ["embed", str(path), "--out", str(tmp_path / "rows.parquet")]
    assert main(command) == 2
    assert "`ppssl --import own_encoder ...`" in capsys.readouterr().err
    assert main([*command, "--import", own_module]) == 0
    assert main(["--import=own_encoder_2", *command]) == 2
    assert "No module named 'own_encoder_2'. Give a module" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Plain", "make"])
def test_a_class_or_function_that_has_to_be_given_again(
    name: str, own_module: str, image_folder: Path, tmp_path: Path
) -> None:
    arguments = _arguments(image_folder, tmp_path / "run")
    with pytest.warns(UserWarning, match="`backbone` is a `Plain`"):
        assert main([*arguments, f"--model.backbone.class_path=own_encoder.{name}"]) == 0
    (path,) = (tmp_path / "run").rglob("last.ckpt")
    with pytest.raises(UserError, match="made of a `Plain`"):
        load_encoder(path)
    assert load_encoder(path, getattr(sys.modules[own_module], name)()) is not None


def test_a_checkpoint_calls_no_function_and_no_other_class(
    own_module: str, image_folder: Path, tmp_path: Path
) -> None:
    path = _checkpoint(_model("hand-written"), image_folder, tmp_path, steps=1)
    (tmp_path / "evil.py").write_text(OWN + "raise SystemExit")
    for foreign in ("evil.Own", "os.mkdir", "torch.nn.Linear", "transformers.Trainer"):
        content = torch.load(path, weights_only=True)
        content["ppssl"]["encoder"]["backbone"] = {
            "class_path": foreign,
            "init_args": {"width": str(tmp_path / "made")},
        }
        torch.save(content, tmp_path / "evil.ckpt")
        with pytest.raises(UserError, match=r"is not imported|not a `Configurable`"):
            load_encoder(tmp_path / "evil.ckpt")
    assert not (tmp_path / "made").exists()
