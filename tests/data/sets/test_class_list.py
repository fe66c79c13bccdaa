"""Splits that list other classes than the training images, or in another order."""

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


def test_a_split_that_lists_other_classes_is_matched_by_name(tmp_path: Path) -> None:
    birds = ["finch", "tit", "wren"]
    train = _folders(tmp_path / "train", *birds)
    two = _folders(tmp_path / "two", "tit", "wren")
    assert two.targets == [0, 0, 1, 1]
    assert _test_labels(train, two) == (birds, ["tit", "tit", "wren", "wren"])
    files = [Path(path) for path, _ in two.samples[:2]]
    turned = Named(files, [0, 2], ["wren", "owl", "finch"])
    assert _test_labels(train, turned) == (birds, ["wren", "finch"])
    for foreign in (
        _folders(tmp_path / "owl", "owl", "wren"),
        Named(files, [0, 1], turned.classes),
    ):
        with pytest.raises(UserError, match=r"`test` has images of class 'owl', .* none of the 3"):
            _test_labels(train, foreign)
    assert _test_labels(train, Named(files, [None, -1], ["owl"]))[1] == [None, None]


def test_names_are_not_matched_with_numbers(tmp_path: Path) -> None:
    two = _folders(tmp_path / "two", "tit", "wren")
    files = [Path(path) for path, _ in two.samples[:2]]
    unnamed = Named(files, [0, 1])
    with pytest.raises(
        UserError, match=r"class 'tit', .* none of the 2 .*'class 0', .*`class_names`"
    ):
        _test_labels(unnamed, two)
    found = _test_labels(unnamed, two, class_names=["wren", "tit"])[1]
    assert found == ["tit", "tit", "wren", "wren"]
    named = {"image": files, "label": ["wren", "tit"]}
    assert _test_labels(named, two)[1] == found


def test_names_in_another_form_of_unicode_are_the_same(tmp_path: Path) -> None:
    train = _folders(tmp_path / "train", "zaunk\u00f6nig", "amsel")
    files = [Path(path) for path, _ in train.samples[:1]]
    test = Named(files, [0], ["zaunko\u0308nig"])
    assert _test_labels(train, test)[1] == ["zaunk\u00f6nig"]


def test_classes_of_hugging_face_are_matched_by_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train = _folders(tmp_path / "train", "finch", "tit", "wren")
    files = [path for path, _ in train.samples[:2]]

    def rows(*names: str) -> Any:
        label = datasets.ClassLabel(names=names)
        features = datasets.Features(image=datasets.Image(), label=label)
        return datasets.Dataset.from_dict({"image": files, "label": [0, 1]}, features=features)

    for known in (train, rows("finch", "wren", "tit")):
        assert _test_labels(known, rows("wren", "finch"))[1] == ["wren", "finch"]


def test_class_names_rename_or_reorder(tmp_path: Path) -> None:
    train = _folders(tmp_path / "train", "1", "2", "3")
    test = _folders(tmp_path / "test", "2", "3")
    birds = ["Finch", "Tit", "Wren"]
    assert _test_labels(train, test, class_names=birds) == (birds, ["Tit"] * 2 + ["Wren"] * 2)
    turned = ["3", "2", "1"]
    assert _test_labels(train, test, class_names=turned) == (turned, ["2", "2", "3", "3"])
    data = DatasetDataModule(train, class_names=turned, **SMALL)
    data.setup()
    assert data.sources["train"].labels.tolist() == [2, 2, 1, 1, 0, 0]
    with pytest.raises(UserError, match="`train` has images of class '1', which is none of the 3"):
        _test_labels(train, test, class_names=["2", "3", "4"])
    with pytest.raises(UserError, match="`train` has images of class '1', which is none of the 2"):
        _test_labels(train, test, class_names=birds[:2])


def test_parts_and_sums_of_data_sets_keep_the_class_names(tmp_path: Path) -> None:
    train = _folders(tmp_path / "train", "finch", "tit", "wren")
    two = _folders(tmp_path / "two", "tit", "wren")
    part = Subset(Subset(train, [5, 4, 0]), [0, 2])
    expected = train.classes, ["wren", "finch"]
    for kept in (train, Subset(train, range(6)), ConcatDataset([train, part])):
        assert _test_labels(kept, part) == expected
    assert _test_labels(train, ConcatDataset([two, Subset(two, [2])]))[1][-2:] == ["wren", "wren"]
    with pytest.raises(UserError, match="`train` joins data sets of different classes"):
        DatasetDataModule(ConcatDataset([train, two]), **SMALL).setup()
    turned = ImageFolder(tmp_path / "two", target_transform=lambda k: 1 - k)
    without = Named([Path(two.samples[0][0])], [0])
    for unnamed in (Subset(turned, [0]), ConcatDataset([two, without])):
        data = DatasetDataModule(unnamed, **SMALL)
        data.setup()
        assert data.classes == ["class 0", "class 1"]
