"""A teacher that looks twice: where, at what, and that banks, checkpoints and anchors take it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ppssl import PPSSL, Anchor, Distillation, FolderDataModule, MoCo, TimmTeacher, ZoomTeacher
from ppssl.losses.anchor_callback import draw_windows
from ppssl.text.teachers.zoom import salient_windows


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return str(path)


def _zoom(weights: str, window: float = 0.5) -> ZoomTeacher:
    looker = TimmTeacher("test_resnet", pretrained=weights, image_size=32)
    return ZoomTeacher(looker, "test_resnet", pretrained=weights, window=window)


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(14, 14), (7, 7), (4, 4)]),
    window=st.integers(1, 64),
)
@settings(max_examples=60, deadline=None)
def test_a_window_lies_in_the_image(seed: int, shape: tuple[int, int], window: int) -> None:
    maps = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))
    corners = salient_windows(maps, window, 64)
    assert corners.dtype == torch.int64
    assert corners.shape == (3, 2)
    assert corners.min() >= 0
    assert corners.max() <= 64 - window


def test_it_is_the_window_of_the_largest_sum_by_trying_all() -> None:
    maps = np.random.default_rng(0).random((20, 14, 14)).astype(np.float32)
    found = salient_windows(torch.from_numpy(maps), 50, 140)  # 5 of 14 cells, 10 pixels each
    for one, corner in zip(maps.astype(float), found, strict=True):
        sums = {(i, j): one[i : i + 5, j : j + 5].sum() for i in range(10) for j in range(10)}
        assert tuple(corner.tolist()) == tuple(10 * k for k in max(sums, key=lambda k: sums[k]))


@pytest.mark.parametrize("window", [1.0, 0.999])
def test_a_window_as_large_as_the_image_is_the_image(weights: str, window: float) -> None:
    whole = TimmTeacher("test_resnet", pretrained=weights, image_size=32)
    image = _noise(40)
    expected = whole.embed_images(whole.transform(image)[None])
    zoom = _zoom(weights, window)
    assert torch.allclose(zoom.embed_images(zoom.transform(image)[None]), expected, atol=1e-5)


def _noise(size: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def _normalised(pixels: Tensor, model: Any) -> Tensor:
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (pixels - mean) / std


class _Corner(ZoomTeacher):
    """Looks at the bottom right, as no encoder says."""

    def saliency(self, images: Tensor) -> Tensor:
        assert images.min() >= -0.01  # in [0, 1], as of a picture that is to be shown
        assert images.max() <= 1.01
        maps = torch.zeros(len(images), 4, 4)
        maps[:, 3, 3] = 1
        return maps


def test_the_embedding_is_the_mean_of_image_and_window(weights: str) -> None:
    """Against timm and slices of the image."""
    model = timm.create_model("test_resnet", num_classes=0, checkpoint_path=weights).eval()
    image = _noise(64)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    pixels = _normalised(pixels, model)
    whole = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        first, second = (model(x).double() for x in (whole, pixels[..., 32:, 32:]))
    expected = first / first.norm() + second / second.norm()
    looker = TimmTeacher("test_resnet", pretrained=weights, image_size=32)
    teacher = _Corner(looker, "test_resnet", pretrained=weights, window=0.5)
    v = teacher.embed_images(teacher.transform(image)[None]).double()
    assert torch.allclose(v, expected / expected.norm(), atol=1e-5)
    assert teacher.embed_views(torch.rand(2, 3, 16, 16)).shape == (2, teacher.dim)


def test_the_map_is_the_energy_of_the_last_feature_map(weights: str) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=0, checkpoint_path=weights).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(_normalised(images, model)).double().square().sum(1)
    assert torch.allclose(_zoom(weights).saliency(images).double(), expected, rtol=1e-4)


def test_other_weights_are_another_bank(weights: str, tmp_path: Path) -> None:
    other = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file(other, tmp_path / "other.safetensors")
    looker = TimmTeacher("test_resnet", pretrained=weights, image_size=32)
    moved = ZoomTeacher(
        looker, "test_resnet", pretrained=str(tmp_path / "other.safetensors"), window=0.5
    )
    assert moved.fingerprint() != _zoom(weights).fingerprint()
    assert moved.name == _zoom(weights).name
    assert _zoom(weights, 0.6).name != moved.name


@pytest.mark.parametrize("plugin", ["anchor", "distillation"])
def test_a_run_with_it_is_saved_and_loaded(
    weights: str, image_folder: Path, tmp_path: Path, plugin: str
) -> None:
    banks = str(tmp_path / "banks")
    made: Any = (
        Anchor(image_size=32, window=0.5, bank_dir=banks)
        if plugin == "anchor"
        else Distillation(_zoom(weights), bank_dir=banks)
    )
    torch.manual_seed(0)
    small: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    model = PPSSL(**small, lr=0.05, contrastive=MoCo(dim=8), plugins={plugin: made})
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, limit_val_batches=0, **quiet)
    trainer.fit(model, data)
    assert len(list(Path(banks).glob("*/images-*.npy"))) == 1
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again: Any = PPSSL.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.config() == model.config()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_a_window_is_a_fraction(weights: str) -> None:
    for window in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"`window` must be in \(0, 1\]"):
            _zoom(weights, window)
        with pytest.raises(ValueError, match=r"`window` must be in \(0, 1\]"):
            Anchor(window=window)


def test_a_figure_shows_the_window_and_what_is_in_it(weights: str, image_folder: Path) -> None:
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    data.setup()
    looker = TimmTeacher("test_resnet", pretrained=weights, image_size=32)
    rows = draw_windows(
        _Corner(looker, "test_resnet", pretrained=weights, window=0.5), data, 3
    ).axes
    assert len(rows) == 9
    file = data.sources["train"].load(0)
    side = min(file.size)
    left, top = (file.width - side) / 2, (file.height - side) / 2
    box = (left, top, left + side, top + side)
    square = file.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC, box=box)
    expected = np.asarray(square)[32:, 32:] / 255
    np.testing.assert_allclose(rows[2].images[0].get_array(), expected, atol=1e-5)
    (rectangle,) = rows[0].patches
    assert rectangle.get_bbox().bounds == (15.5, 15.5, 16, 16)
