"""Forms of IADM that change what the encoder is shown (experiments/shown.py)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from experiments.shown import CELLS, Form, Shown, edit, in_view
from lightning.pytorch import Trainer
from torch import Tensor

from ppssl import PPSSL, FolderDataModule, MoCo


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_map_is_seen_where_the_view_is(axis: int, flip: float) -> None:
    """A map that holds its own coordinate shows where each cell of the view comes from."""
    line = (torch.arange(CELLS) + 0.5) / CELLS
    maps = line.view(1, -1, 1) if axis == 1 else line.view(1, 1, -1)
    left, top, width, height = 0.3, 0.2, 0.5, 0.6
    geometry = torch.tensor([[left, top, width, height, flip]])
    seen = in_view(maps.expand(1, CELLS, CELLS), geometry)[0, 0]
    if axis == 1:
        expected = (top + height * line).view(-1, 1).expand(CELLS, CELLS)
    else:
        expected = left + width * (line.flip(0) if flip else line)
        expected = expected.expand(CELLS, CELLS)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_the_background_is_another_image() -> None:
    views = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 28, 28)
    maps = torch.zeros(2, CELLS, CELLS)
    maps[:, :, : CELLS // 2 + 1] = 1.0  # the left half, and a column
    edited = edit(views, maps[:, None], "background out", maps)
    assert (edited[0, :, :, :12] == 0).all()
    assert (edited[0, :, :, -8:] == 1).all()
    assert (edited[1, :, :, :12] == 1).all()


def test_the_obvious_is_grey() -> None:
    views, maps = torch.ones(1, 3, 28, 28), torch.zeros(1, CELLS, CELLS)
    maps[0, -1, -1] = 1
    edited = edit(views, maps[:, None], "drop the obvious", maps)
    assert (edited[:, :, 14:, 14:] == 0).all()
    assert edited.sum() == 3 * (28 * 28 - 14 * 14)


@pytest.mark.parametrize("form", ["background out", "drop the obvious"])
def test_without_edited_images_it_is_the_plain_model(form: Form, image_folder: Path) -> None:
    def train(make: Callable[..., PPSSL]) -> Tensor:
        data = FolderDataModule(image_folder, image_size=32, batch_size=8, num_workers=0)
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

    plain = train(PPSSL)
    assert torch.equal(train(partial(Shown, form, 0.0)), plain)
    assert not torch.equal(train(partial(Shown, form, 1.0)), plain)
