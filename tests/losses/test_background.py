"""Salient parts on other backgrounds: the maps, the edit of the batch, and a training with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from ppssl import PPSSL, BackgroundSwap, FolderDataModule, MoCo, UserError
from ppssl.losses.background.maps import CELLS, ContrastMaps
from ppssl.losses.background.plugin import on_other_backgrounds, threshold_of


def _model(plugins: dict[str, Any]) -> PPSSL:
    options: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    return PPSSL(**options, contrastive=MoCo(dim=8), lr=0.1, init_seed=0, plugins=plugins)


def _fit(
    model: PPSSL, images: Path, folder: Path, ckpt_path: Path | None = None, **kwargs: Any
) -> Trainer:
    data = FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0)
    options: dict[str, Any] = {"max_epochs": 2, "log_every_n_steps": 1, "limit_val_batches": 0}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(default_root_dir=folder, **options | kwargs)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer


def test_a_map_is_the_contrast_with_the_local_mean() -> None:
    """Against loops over pixels, in float64."""
    rng = np.random.default_rng(0)
    picture = rng.random((224, 224, 3))
    found = ContrastMaps().embed_images(torch.tensor(picture).permute(2, 0, 1)[None])
    padded = np.cumsum(np.cumsum(np.pad(picture, ((1, 0), (1, 0), (0, 0))), 0), 1)
    contrast = np.zeros((224, 224))
    for y in range(224):
        top, bottom = max(0, y - 28), min(224, y + 29)
        for x in range(224):
            left, right = max(0, x - 28), min(224, x + 29)
            total = (
                padded[bottom, right]
                - padded[top, right]
                - padded[bottom, left]
                + padded[top, left]
            )
            mean = total / ((bottom - top) * (right - left))
            contrast[y, x] = np.abs(picture[y, x] - mean).sum() ** 2
    cells = contrast.reshape(14, 16, 14, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(found[0].view(14, 14).numpy(), cells / cells.mean(), rtol=1e-6)


def test_a_view_keeps_what_is_salient_and_gets_the_others_background() -> None:
    maps = torch.zeros(3, 1, CELLS, CELLS)
    maps[0, 0, :7], maps[1, 0, 7:], maps[2, 0, :, :7] = 1.0, 1.0, 1.0
    fore, back = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([1.0, 2.0, 3.0])
    fine = maps.repeat_interleave(2, 2).repeat_interleave(2, 3) > 0
    views = torch.where(fine, fore.view(3, 1, 1, 1), back.view(3, 1, 1, 1)).expand(3, 3, 28, 28)
    edited = on_other_backgrounds(views, maps, torch.full((3, 1, 1, 1), 0.5))
    for i, other in enumerate((2, 0, 1)):
        assert edited[i, 0][fine[i, 0]].eq(fore[i]).all()
        assert edited[i, 0][~fine[i, 0]].eq(back[other]).all()


@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_it_keeps_the_fraction_that_is_asked_for(keep: float) -> None:
    maps = torch.rand(3, CELLS, CELLS)
    threshold = threshold_of(maps, keep)
    share = (maps[:, None] >= threshold).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(share, torch.full((3,), keep), atol=1 / CELLS**2, rtol=0)


def test_query_and_key_of_an_image_get_other_backgrounds(
    image_folder: Path, tmp_path: Path
) -> None:
    """Each view of one colour, so an edited view says whose background it has."""
    plugin = BackgroundSwap(bank_dir=str(tmp_path))
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    data.setup()
    plugin.on_fit_start(data, torch.device("cpu"))
    colours = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 32, 32)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).expand(5, 2, 5)
    small = torch.rand(5, 3, 16, 16)
    batch = {"views": [colours, colours, small], "index": torch.arange(5), "geometry": whole}
    views = plugin.edit_batch(batch)["views"]
    assert views[2] is small
    for shift, edited in enumerate(views[:2], 1):
        for i, view in enumerate(edited):
            assert view.unique().tolist() == sorted([float(i), float((i - shift) % 5)])


def test_a_training_adds_no_term_and_draws_once(image_folder: Path, tmp_path: Path) -> None:
    model = _model({"background": BackgroundSwap(bank_dir=str(tmp_path / "banks"))})
    trainer = _fit(model, image_folder, tmp_path, logger=CSVLogger(tmp_path))
    logged = trainer.logged_metrics
    assert not [name for name in logged if "background" in name]
    assert logged["train/loss"] == logged["train/loss_contrastive"]
    figures = [path.name for path in tmp_path.rglob("figures/*.png")]
    assert figures == ["background-backgrounds-000003.png"]


def test_the_encoder_is_shown_the_edited_views(image_folder: Path, tmp_path: Path) -> None:
    """With everything salient nothing is changed; with less, the first step's loss is another one."""
    first = {}
    for name, plugins in {
        "none": {},
        "all": {"b": BackgroundSwap(1.0, bank_dir=str(tmp_path))},
        "half": {"b": BackgroundSwap(0.5, bank_dir=str(tmp_path))},
    }.items():
        model = _model(plugins)
        trainer = _fit(model, image_folder, tmp_path / name, max_steps=1)
        first[name] = trainer.logged_metrics["train/loss"].item()
    assert first["all"] == pytest.approx(first["none"], abs=1e-6)
    assert abs(first["half"] - first["none"]) > 1e-4


class _Save(Callback):
    """Saves in the middle of the second epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_is_the_straight_one(image_folder: Path, tmp_path: Path) -> None:
    straight, resumed = (
        _model({"background": BackgroundSwap(bank_dir=str(tmp_path / "banks"))}) for _ in range(2)
    )
    half = tmp_path / "half.ckpt"
    _fit(straight, image_folder, tmp_path / "a", callbacks=[_Save(half)])
    _fit(resumed, image_folder, tmp_path / "b", ckpt_path=half)
    wanted, found = straight.state_dict(), resumed.state_dict()
    assert all(found[name].equal(value) for name, value in wanted.items())


def test_images_without_contrast_stay_as_they_are(tmp_path: Path) -> None:
    maps = ContrastMaps().embed_images(torch.full((2, 3, 224, 224), 0.5)).view(2, CELLS, CELLS)
    views = torch.rand(2, 3, 28, 28)
    threshold = threshold_of(maps, BackgroundSwap().keep)
    assert on_other_backgrounds(views, maps[:, None], threshold).equal(views)


def test_what_it_cannot_do_is_one_line(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`keep` must be in \(0, 1\], got 0"):
        BackgroundSwap(keep=0)

    def own(image: Image.Image, generator: np.random.Generator) -> torch.Tensor:
        return torch.rand(3, 32, 32)

    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, augmentation=own)
    with pytest.raises(UserError, match="`BackgroundSwap` must know where each view was cut out"):
        Trainer(max_epochs=1, default_root_dir=tmp_path).fit(
            _model({"background": BackgroundSwap()}), data
        )
    loader = torch.utils.data.DataLoader(
        [{"views": [torch.rand(4, 3, 16, 16)] * 2, "index": torch.arange(4)}],  # type: ignore[arg-type]
        batch_size=None,
    )
    with pytest.raises(UserError, match="BackgroundSwap looks up"):
        Trainer(max_epochs=1, default_root_dir=tmp_path).fit(
            _model({"background": BackgroundSwap()}), loader
        )
