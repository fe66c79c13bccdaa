"""The data set of a checkpoint is made again, or one line says what it lacks."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ppssl import DatasetDataModule, FolderDataModule, UserError
from ppssl.checkpointing.data_set import data_of_checkpoint


def test_a_transform_as_augmentation_does_not_keep_it_from_evaluation(image_folder: Path) -> None:
    chain = v2.RandomResizedCrop(32)
    trained = FolderDataModule(image_folder, image_size=32, batch_size=4, augmentation=chain)
    content = {"data": trained.config()}
    assert content["data"]["not_saved"] == {"augmentation": "RandomResizedCrop"}
    again = data_of_checkpoint(content, "run.ckpt")
    for data in (trained, again):
        data.setup()
    (first, *_), (second, *_) = trained.val_dataloader(), again.val_dataloader()
    assert torch.equal(next(iter(first))["image"], next(iter(second))["image"])


def test_a_data_set_that_no_file_holds_is_asked_for() -> None:
    images = [(Image.new("RGB", (40, 40)), 0)] * 4
    content = {"data": DatasetDataModule(images, image_size=32, batch_size=4).config()}
    with pytest.raises(UserError, match=r"`train` .* was a `list`, which run.ckpt .*--data RECIPE"):
        data_of_checkpoint(content, "run.ckpt")
    with pytest.raises(UserError, match=r"run.ckpt has no data set: give one, in Python `data`"):
        data_of_checkpoint({"data": None}, "run.ckpt")
