from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppssl import FolderDataModule
from ppssl.data import LabelledAugmentation


def _picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def test_a_view_is_a_function_of_its_numbers() -> None:
    augmentation = LabelledAugmentation()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    view = augmentation.view(_picture(), 1, 2, 3, 32)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(augmentation.view(_picture(), 1, 2, 3, 32), view)
    assert (view.shape, view.dtype) == ((3, 32, 32), torch.uint8)
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(augmentation.view(_picture(), *other, 32), view)


def test_rand_augment_comes_on_top_of_the_same_crop() -> None:
    plain = LabelledAugmentation(rand_augment_ops=0)
    views = [plain.view(_picture(), 0, epoch, 0, 32) for epoch in range(8)]
    strong = [LabelledAugmentation().view(_picture(), 0, epoch, 0, 32) for epoch in range(8)]
    assert sum(not torch.equal(a, b) for a, b in zip(views, strong, strict=True)) >= 6


@pytest.mark.parametrize(
    "kwargs", [{"rand_augment_ops": -1}, {"rand_augment_magnitude": 31}, {"crop_scale": (0.0, 1.0)}]
)
def test_arguments_are_checked(kwargs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        LabelledAugmentation(**kwargs)  # type: ignore[arg-type]


def test_labelled_batches_and_back_to_views(image_folder: Path) -> None:
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=4, num_workers=0, seed=0)
    data.setup()
    data.request_labelled(LabelledAugmentation())
    batches = list(data.train_dataloader(epoch=0))
    assert {"image", "label", "index"} <= batches[0].keys()
    index = torch.cat([batch["index"] for batch in batches])
    assert set(index.tolist()) <= set(data.train_fit.tolist())
    labels = torch.cat([batch["label"] for batch in batches])
    assert np.array_equal(labels, data.sources["train"].labels[index])
    assert [len(data.val_dataloader()), len(data.test_dataloader())] == [1, 1]
    data.request({})
    assert len(next(iter(data.train_dataloader(epoch=0)))["views"]) == 2
    assert [len(data.val_dataloader()), len(data.test_dataloader())] == [2, 2]


def test_an_index_is_found_again(image_folder: Path) -> None:
    data = FolderDataModule(str(image_folder), num_workers=0)
    data.setup()
    assert data.locate(23) == ("train", 23)
    assert data.locate(24) == ("test", 0)
