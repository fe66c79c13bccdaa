"""Class names of data sets that are a part or the sum of others."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets import ImageFolder

from ppssl import DatasetDataModule, UserError

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8, "num_workers": 0}


def _test_labels(train: Any, test: Any, **options: Any) -> tuple[list[str], list[str | None]]:
    """Class names, and those of the test images."""
    data = DatasetDataModule(train, test=test, **SMALL, **options)
    data.setup()
    assert data.sources["test"].classes == data.classes
    labels = data.sources["test"].labels.tolist()
    return data.classes, [data.classes[k] if k >= 0 else None for k in labels]


class Named(Dataset[Any]):
    """Pairs of an image and a label, and perhaps class names, in an order of its own."""

    def __init__(self, files: list[Path], labels: list[Any], classes: Any = None) -> None:
        self.files, self.of_file, self.classes = files, labels, classes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        return Image.open(self.files[i]), self.of_file[i]


def _folders(root: Path, *names: str) -> ImageFolder:
    """A folder of classes with two images each."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 40), (i, 9, 9)).save(root / name / f"{i}.png")
    return ImageFolder(root)


def test_parts_and_sums_of_data_sets_keep_the_class_names(tmp_path: Path) -> None:
    train = _folders(tmp_path / "train", "finch", "tit", "wren")
    two = _folders(tmp_path / "two", "tit", "wren")
    part = Subset(Subset(train, [5, 4, 0]), [0, 2])
    expected = train.classes, ["wren", "finch"]
    for kept in (train, Subset(train, range(6)), ConcatDataset([train, part])):
        assert _test_labels(kept, part) == expected
    with pytest.raises(UserError, match="`train` joins data sets of different classes"):
        DatasetDataModule(ConcatDataset([train, two]), **SMALL).setup()
    turned = ImageFolder(tmp_path / "two", target_transform=lambda k: 1 - k)
    without = Named([Path(two.samples[0][0])], [0])
    for unnamed in (Subset(turned, [0]), ConcatDataset([two, without])):
        data = DatasetDataModule(unnamed, **SMALL)
        data.setup()
        assert data.classes == ["class 0", "class 1"]
