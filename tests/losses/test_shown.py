"""Forms of IADM that change what the encoder is shown (experiments/shown.py)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from experiments.attend import AttendBoth, Pool
from experiments.shown import (
    CELLS,
    WINDOW,
    Closer,
    Form,
    Shown,
    contrast_maps,
    edit,
    known_maps,
    read_masks,
    windows,
)
from lightning.pytorch import Trainer
from torch import Tensor

from ppssl import PPSSL, FolderDataModule, MoCo, MoCoV2Augmentation
from ppssl.data import SyntheticDataModule
from ppssl.functional import info_nce
from ppssl.losses.background.plugin import maps_of_views


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_map_is_seen_where_the_view_is(axis: int, flip: float) -> None:
    """A map that holds its own coordinate shows where each cell of the view comes from."""
    line = (torch.arange(CELLS) + 0.5) / CELLS
    maps = line.view(1, -1, 1) if axis == 1 else line.view(1, 1, -1)
    left, top, width, height = 0.3, 0.2, 0.5, 0.6
    geometry = torch.tensor([[left, top, width, height, flip]])
    seen = maps_of_views(maps.expand(1, CELLS, CELLS), geometry)[0, 0]
    if axis == 1:
        expected = (top + height * line).view(-1, 1).expand(CELLS, CELLS)
    else:
        expected = left + width * (line.flip(0) if flip else line)
        expected = expected.expand(CELLS, CELLS)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_masks_of_a_file_are_found_by_name(tmp_path: Path) -> None:
    masks = torch.zeros(2, 28, 28, dtype=torch.bool)
    masks[0, :2, :1] = True
    torch.save({"names": ["a/1.png", "b/1.png"], "masks": masks}, tmp_path / "masks.pt")
    found = read_masks(str(tmp_path / "masks.pt"), ["b/1.png", "a/1.png"])
    assert found.shape == (2, CELLS, CELLS)
    assert found[0].sum() == 0
    assert found[1, 0, 0] == 0.5
    assert found[1].sum() == 0.5


def test_the_background_is_another_image() -> None:
    views = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 28, 28)
    maps = torch.zeros(2, CELLS, CELLS)
    maps[:, :, : CELLS // 2 + 1] = 1.0  # the left half, and a column
    edited = edit(views, maps[:, None], "background out", maps)
    assert (edited[0, :, :, :12] == 0).all()
    assert (edited[0, :, :, -8:] == 1).all()
    assert (edited[1, :, :, :12] == 1).all()


def test_the_background_of_a_small_mask_is_all_that_it_leaves_out() -> None:
    views, mask = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 28, 28), torch.zeros(2, 14, 14)
    mask[:, :2, :2] = 1.0
    edited = edit(views, mask[:, None], "background out", mask)
    assert (edited[0, :, :4, :4] == 0).all()
    assert (edited[0, :, 6:] == 1).all()
    assert (edited[0, :, :, 6:] == 1).all()


@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
def test_the_background_is_all_but_what_is_kept_of_the_map(keep: float) -> None:
    views = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, CELLS, CELLS)
    maps = torch.randperm(2 * CELLS * CELLS).view(2, CELLS, CELLS) + 1.0
    edited = edit(views, maps[:, None], "background out", maps, keep)
    assert (edited[0] == 0).float().mean().item() == pytest.approx(keep, abs=1 / CELLS**2)


def test_a_clean_background_shows_nothing_of_the_others_foreground() -> None:
    """Each image has its own foreground colour on a background of another."""
    maps = torch.zeros(2, CELLS, CELLS)
    maps[0, 2:5, 2:5], maps[1, 8:12, 8:12] = 1.0, 1.0
    fore = F.interpolate(maps[:, None], (28, 28)) > 0
    colour = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    views = torch.where(fore, 10 * colour, colour).expand(2, 3, 28, 28)
    edited = edit(views, maps[:, None], "background out", maps, fill="background")
    assert edited[0, :, 4:10, 4:10].eq(10).all()
    assert edited[0, :, 14:].eq(2).all()
    assert edited[1, :, :10].eq(1).all()
    assert {10.0, 20.0}.isdisjoint(edited[0, :, 12:].unique().tolist())


def test_the_obvious_is_grey() -> None:
    views, maps = torch.ones(1, 3, 28, 28), torch.zeros(1, CELLS, CELLS)
    maps[0, -1, -1] = 1
    edited = edit(views, maps[:, None], "drop the obvious", maps)
    assert (edited[:, :, 14:, 14:] == 0).all()
    assert edited.sum() == 3 * (28 * 28 - 14 * 14)


def test_a_window_is_where_the_most_of_the_map_is() -> None:
    maps = torch.zeros(2, CELLS, CELLS)
    maps[0, 0, 0] = maps[1, -1, 3] = 1
    assert windows(maps)[0].tolist() == [0, 0]
    x, y = (windows(maps)[1] * CELLS).tolist()
    assert x <= 3 < x + WINDOW * CELLS
    assert y == CELLS - WINDOW * CELLS


def test_the_closer_view_is_the_usual_crop_of_the_window() -> None:
    usual = MoCoV2Augmentation(crop_scale=(0.3, 1.0))
    where = torch.tensor([[0.1, 0.2], [0.3, 0.0]])
    closer = Closer(usual, where, share=1.0)
    for index in range(2):
        key = {"size": (40, 40), "view_size": 16}
        of_image = usual.sample(0, 3, index, 0, **key)
        left, top, width, height = closer.sample(0, 3, index, 0, **key).crop
        x, y = where[index].tolist()
        back = [(left - x) / WINDOW, (top - y) / WINDOW, width / WINDOW, height / WINDOW]
        assert back == pytest.approx(of_image.crop)
        assert closer.sample(0, 3, index, 1, **key) == usual.sample(0, 3, index, 1, **key)
    assert Closer(usual, where, share=0.0).sample(0, 3, 0, 0, **key) == usual.sample(
        0, 3, 0, 0, **key
    )


def test_known_birds_and_their_contrast_are_in_the_same_place() -> None:
    data = SyntheticDataModule(
        train_size=12, test_size=4, image_size=32, batch_size=4, num_workers=0
    )
    data.setup()
    known, contrast = known_maps(data, "known"), contrast_maps(data)
    assert known.shape == contrast.shape == (12, CELLS, CELLS)
    on_bird = (contrast * known).sum(dim=(1, 2)) / contrast.sum(dim=(1, 2))
    assert (on_bird.mean() > 1.2 * known.mean()).item()
    parts = known_maps(data, "parts")
    assert (parts <= known).all()
    assert 0.1 * known.sum() < parts.sum() < 0.9 * known.sum()


@pytest.mark.parametrize("form", ["zoom", "background out", "drop the obvious"])
def test_without_edited_images_it_is_the_plain_model(form: Form, image_folder: Path) -> None:
    plain = weights_after(PPSSL, image_folder)
    assert torch.equal(weights_after(partial(Shown, form, 0.0), image_folder), plain)
    assert not torch.equal(weights_after(partial(Shown, form, 1.0), image_folder), plain)


def weights_after(make: Callable[..., PPSSL], images: Path) -> Tensor:
    """Of the encoder, after two steps."""
    data = FolderDataModule(images, image_size=32, batch_size=8, num_workers=0)
    model = make(
        backbone="test_resnet",
        contrastive=MoCo(dim=8, queue_size=16),
        init_seed=0,
        seed=0,
        lr=0.1,
        monitors=False,
    )
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=2, accelerator="cpu", **options).fit(model, data)
    return torch.cat([p.detach().flatten() for p in model.encoder.parameters()])


@pytest.mark.parametrize("pool", ["energy", "gem", "mean"])
def test_attending_on_both_sides_trains_the_encoder(pool: Pool, image_folder: Path) -> None:
    plain = weights_after(PPSSL, image_folder)
    assert torch.equal(weights_after(partial(AttendBoth, pool, 0.0), image_folder), plain)
    assert not torch.equal(weights_after(partial(AttendBoth, pool, 1.0), image_folder), plain)


def test_the_pooled_contrast_is_info_nce_with_its_own_queue() -> None:
    """By hand in float64: pooled with the energy of each place, each side through its own head."""
    model = AttendBoth(
        "energy", 1.0, backbone="test_resnet", contrastive=MoCo(dim=8, queue_size=16), seed=0
    )
    model.build(32)
    views = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).unbind(0)
    batch = {"views": list(views), "index": torch.arange(4)}
    plain, _ = PPSSL.losses(model, batch, seed=0, progress=0.0)
    for _ in range(2):  # the second time the queue has the keys of other images
        loss, _ = model.losses(batch, seed=0, progress=0.0)
        keys = []
        for side, encoder, head in (
            (0, model.encoder, model.pooled_head),
            (1, model.contrastive.key_encoder, model.pooled_key_head),
        ):
            places = encoder.features(views[side]).map.double().flatten(2)
            share = places.square().sum(dim=1, keepdim=True)
            pooled = (places * share / share.sum(dim=2, keepdim=True)).sum(dim=2)
            out = head.double()(pooled)
            head.float()
            keys.append(out / out.norm(dim=1, keepdim=True))
        negatives, mask = model.pooled_queue.negatives(batch["index"])
        expected = info_nce(keys[0], keys[1], negatives.double(), temperature=0.2, mask=mask).mean()
        torch.testing.assert_close(loss - plain, expected, atol=2e-4, rtol=1e-4)
        model.on_after_backward()
        batch = batch | {"index": batch["index"] + 4}
        plain, _ = PPSSL.losses(model, batch, seed=0, progress=0.0)


@pytest.mark.parametrize("pool", ["known", "parts"])
def test_known_places_are_those_of_the_view(pool: Pool) -> None:
    """By hand: the mask of each place of the feature map, looked up in the original at its centre."""
    data = SyntheticDataModule(
        train_size=16, test_size=4, image_size=32, batch_size=8, num_workers=0
    )
    model = AttendBoth(
        pool, 1.0, backbone="test_resnet", contrastive=MoCo(dim=8, queue_size=16), seed=0
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=1, accelerator="cpu", **quiet).fit(model, data)
    batch = next(iter(data.train_dataloader()))
    model.pooled_head = torch.nn.Identity()
    features = torch.zeros(8, 1, 7, 7)
    features[:, :, 2, 5] = 1.0  # what is pooled is the weight of this place
    weights = []
    for view in range(2):
        pooled = model._pool(features, batch, view)[:, 0]
        left, top, width, height, flip = batch["geometry"][:, view].unbind(1)
        across = torch.where(flip > 0, 1 - 5.5 / 7, torch.tensor(5.5 / 7)) * width + left
        down = 2.5 / 7 * height + top
        source = data.sources["train"]
        for i, x, y, weight in zip(batch["index"].tolist(), across, down, pooled, strict=True):
            known = source.annotations(i)
            mask = known["object"] if pool == "known" else known["parts"].any(dim=0)
            side = mask.shape[-1]
            on = mask[max(int(y * side) - 2, 0) :, max(int(x * side) - 2, 0) :][:5, :5]
            weights.append((on.float().mean().item(), weight.item()))
    inside = [weight for on, weight in weights if on == 1]
    outside = [weight for on, weight in weights if on == 0]
    assert inside
    assert outside
    assert min(inside) > 1.5 * max(outside)
