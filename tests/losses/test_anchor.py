"""The anchor to the starting encoder."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from ppssl import PPSSL, Anchor, EncoderInfo, FolderDataModule, MoCo, UserError
from ppssl.encoder import Encoder
from ppssl.losses.anchor import _tested_size

_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def _model(**kwargs: Any) -> PPSSL:
    torch.manual_seed(0)
    options: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    options |= {"contrastive": MoCo(dim=8), "batch_norm": "frozen", "lr": 0.1}
    return PPSSL(**options | kwargs)


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(6, 3, 16, 16, generator=generator) for _ in range(2)]
    return {"views": views, "index": torch.arange(6)}


def _fit(model: PPSSL, images: Path, folder: Path, **kwargs: Any) -> Trainer:
    data = FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=2,
        log_every_n_steps=1,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
    trainer.fit(model, data)
    return trainer


def test_of_the_view_it_is_one_minus_the_cosine_to_the_starting_encoder() -> None:
    model, batch = _model(plugins={"anchor": Anchor(2.0, image_size=None)}), _batch()
    model.build(20)
    model.train()
    loss, logs = model.losses(batch, seed=0, progress=0.0)
    assert logs["loss_anchor"].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        start = model.encoder(batch["views"][0]).numpy().astype(float)
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        now = model.encoder(batch["views"][0]).numpy().astype(float)
    loss, logs = model.losses(batch, seed=0, progress=0.0)
    cosine = (now * start).sum(1) / ((now**2).sum(1) * (start**2).sum(1)) ** 0.5
    assert logs["loss_anchor"].item() == pytest.approx((1 - cosine).mean(), abs=1e-5)
    assert logs["loss_anchor"] > 1e-3
    assert loss.item() == pytest.approx(
        logs["loss_contrastive"].item() + 2 * logs["loss_anchor"].item(), abs=1e-5
    )


def test_the_gradient_reaches_the_encoder_and_not_its_copy() -> None:
    model = _model(plugins={"anchor": Anchor(image_size=None)})
    model.build(20)
    plugin: Any = model.plugins["anchor"]
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    loss, _ = model.losses(_batch(), seed=0, progress=0.0)
    loss.backward()
    assert all(p.grad is None for p in plugin.start.parameters())
    assert not any(p.requires_grad for p in plugin.start.parameters())
    model.train()
    assert not plugin.start.training


def test_it_holds_the_encoder_back(image_folder: Path, tmp_path: Path) -> None:
    images, drift = torch.randn(8, 3, 32, 32), {}
    for weight in (0.0, 30.0):
        model = _model(
            plugins={"anchor": Anchor(weight, image_size=None)}, optimizer="adamw", lr=1e-3
        )
        before = model.encoder(images).detach()
        _fit(model, image_folder, tmp_path / str(weight), enable_checkpointing=False)
        after = model.encoder(images).detach()
        drift[weight] = 1 - torch.cosine_similarity(before, after).mean()
    assert drift[30.0] < drift[0.0] / 3


def test_a_checkpoint_keeps_the_starting_encoder(image_folder: Path, tmp_path: Path) -> None:
    model = _model(plugins={"anchor": Anchor(image_size=None)})
    start = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    trainer = _fit(model, image_folder, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again: Any = PPSSL.load_from_checkpoint(tmp_path / "last.ckpt")
    saved = again.plugins["anchor"].start.state_dict()
    assert all(saved[name].equal(value) for name, value in start.items())
    trained = again.encoder.state_dict()
    assert not all(trained[name].equal(value) for name, value in start.items())


@pytest.mark.parametrize("window", [0.5, None])
def test_where_it_looks_closer_is_drawn_once(
    image_folder: Path, tmp_path: Path, window: float | None
) -> None:
    anchor = Anchor(image_size=32, window=window, bank_dir=str(tmp_path / "banks"))
    _fit(_model(plugins={"anchor": anchor}), image_folder, tmp_path, logger=CSVLogger(tmp_path))
    figures = [path.name for path in tmp_path.rglob("figures/*.png")]
    assert figures == (["anchor-windows-000003.png"] if window else [])


def _plain(path: Path, size: int) -> torch.Tensor:
    """The central square of an image file at a size, normalised as ImageNet's weights want it."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    square = rgb.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return (torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255 - _MEAN) / _STD


@pytest.mark.parametrize(("size", "pooling"), [(48, "same"), (24, "same"), (48, "gem")])
def test_of_the_original_it_is_what_the_start_says_of_the_whole_image(
    image_folder: Path, tmp_path: Path, size: int, pooling: Any
) -> None:
    """The embedding of a view against that of the plain file, however the encoder has moved since."""
    anchor = Anchor(image_size=size, pooling=pooling, bank_dir=str(tmp_path / "banks"))
    model = _model(plugins={"anchor": anchor})
    start = copy.deepcopy(model.encoder).eval()
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    _fit(model, image_folder, tmp_path)
    data.setup()
    source, batch = data.sources["train"], _batch()
    index = torch.tensor([3, 0, 5, 5, 1, 2])
    model.train()
    _, logs = model.losses(batch | {"index": index}, seed=0, progress=0.0)
    with torch.no_grad():
        now = model.encoder(batch["views"][0]).double()
        everything = torch.stack([_plain(Path(source.name(i)), size) for i in range(len(source))])
        stored = start(everything.float()).double()
        if pooling == "gem":
            seen = start.features(everything.float()).map.double()
            stored = (seen.clamp(min=1e-6) ** 3).mean(dim=(2, 3)) ** (1 / 3)
    stored = stored / stored.norm(dim=1, keepdim=True)
    now, target = (
        now / now.norm(dim=1, keepdim=True) - stored.mean(0),
        stored[index] - stored.mean(0),
    )
    expected = (1 - (now * target).sum(1) / now.norm(dim=1) / target.norm(dim=1)).mean()
    assert logs["loss_anchor"].item() == pytest.approx(expected.item(), abs=2e-3)  # stored in half
    assert logs["loss_anchor"] > 0.02


def test_a_resumed_run_is_anchored_to_the_first_start(image_folder: Path, tmp_path: Path) -> None:
    """Also where the new process begins with other weights: those of the checkpoint count."""

    def anchored() -> PPSSL:
        return _model(plugins={"anchor": Anchor(image_size=24, bank_dir=str(tmp_path / "banks"))})

    first = anchored()
    trainer = _fit(first, image_folder, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = anchored()
    with torch.no_grad():
        for parameter in second.encoder.parameters():
            parameter.add_(0.5)
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    options: Any = {"limit_val_batches": 0, "enable_progress_bar": False, "max_epochs": 3}
    Trainer(default_root_dir=tmp_path, **options).fit(
        second, data, ckpt_path=tmp_path / "last.ckpt"
    )
    index = torch.arange(6)
    plugins: list[Any] = [model.plugins["anchor"] for model in (first, second)]
    targets = [plugin._bank.lookup(index) for plugin in plugins]
    assert targets[0].equal(targets[1])


@pytest.mark.parametrize(
    "others",
    [
        [{"init_seed": 0}, {"init_seed": 1}],
        [
            {"init_seed": 0, "backbone_kwargs": {"width": 4, "global_pool": p}}
            for p in ("avg", "max")
        ],
    ],
    ids=["weights", "pooling"],
)
def test_other_encoders_have_other_targets(
    others: list[dict[str, Any]], image_folder: Path, tmp_path: Path
) -> None:
    """Also where both look for their bank in one folder, and have the same weights."""
    targets = []
    for k, options in enumerate(others):
        model = _model(**options, plugins={"anchor": Anchor(image_size=24, bank_dir=str(tmp_path))})
        _fit(model, image_folder, tmp_path / str(k), enable_checkpointing=False)
        plugin: Any = model.plugins["anchor"]
        targets.append(plugin._bank.lookup(torch.arange(6)))
    assert not torch.allclose(targets[0], targets[1], atol=1e-2)


@pytest.mark.parametrize(
    ("cfg", "views", "size"),
    [
        ({}, 224, 224),
        ({"input_size": (3, 160, 160), "test_input_size": (3, 288, 288)}, 224, 288),
        ({"input_size": (3, 224, 224)}, 128, 224),
        ({"input_size": (3, 224, 224)}, 256, 256),
    ],
)
def test_auto_is_the_size_that_the_weights_are_tested_at(
    cfg: dict[str, Any], views: int, size: int
) -> None:
    model = _model()
    model.encoder.model.pretrained_cfg = cfg
    assert _tested_size(model.encoder, views) == size


def test_auto_falls_back_to_the_size_of_the_views_for_an_encoder_built_for_it() -> None:
    small = {"depth": 1, "embed_dim": 12, "num_heads": 1}
    encoder = Encoder("vit_tiny_patch16_224", image_size=64, kwargs=small)
    assert encoder.model.pretrained_cfg["input_size"][-1] > 64
    assert _tested_size(encoder, 64) == 64


def test_an_encoder_that_does_not_pool_by_the_mean_has_no_gem() -> None:
    small = {"depth": 1, "embed_dim": 12, "num_heads": 1}
    encoder = Encoder("vit_tiny_patch16_224", image_size=64, kwargs=small)
    with pytest.raises(UserError, match=r"does not pool .* `pooling: gem` could stand"):
        Anchor(pooling="gem").teacher(encoder, 64)


def test_own_loaders_have_no_numbered_images(tmp_path: Path) -> None:
    model = _model(plugins={"anchor": Anchor()})
    loader = torch.utils.data.DataLoader([_batch()], batch_size=None)  # type: ignore[var-annotated, arg-type]
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, enable_progress_bar=False)
    with pytest.raises(UserError, match=r"Anchor looks up .* `image_size=None`"):
        trainer.fit(model, loader)


def test_errors() -> None:
    with pytest.raises(ValueError, match="`loss_weight` must be >= 0, got -1"):
        Anchor(-1.0)
    with pytest.raises(ValueError, match="`image_size` must be >= 1, got 0"):
        Anchor(image_size=0)
    with pytest.raises(ValueError, match=r"`window=0.5` is of the original image"):
        Anchor(image_size=None, window=0.5)
    with pytest.raises(ValueError, match=r"`pooling=gem` is of the original image.*`pooling=same`"):
        Anchor(image_size=None, pooling="gem")
    with pytest.raises(UserError, match="`Anchor` needs the encoder itself"):
        Anchor().build(EncoderInfo(dim=4, channels=4, mean=(0.0,), std=(1.0,)))
