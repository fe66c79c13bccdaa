"""Data module of data sets that torchvision reads and downloads: Flowers102, OxfordIIITPet, Food101."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torchvision.datasets

from ppssl.data.files import FileSource
from ppssl.data.sets.published import PublishedDataModule, Sizes, check_files
from ppssl.data.source import ImageSource
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import expand

__all__ = ["TorchvisionDataModule"]

_FOLDERS = {
    "Flowers102": "flowers-102",
    "OxfordIIITPet": "oxford-iiit-pet",
    "Food101": "food-101",
}
_SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "Flowers102": {"train": ("train", "val"), "test": ("test",)},
    "OxfordIIITPet": {"train": ("trainval",), "test": ("test",)},
    "Food101": {"train": ("train",), "test": ("test",)},
}
_SIZES = {
    "Flowers102": Sizes(train=2040, test=6149, classes=102),
    "OxfordIIITPet": Sizes(train=3680, test=3669, classes=37),
    "Food101": Sizes(train=75_750, test=25_250, classes=101),
}


_CLASS_OF_PATH: dict[str, Callable[[Path], str]] = {
    "OxfordIIITPet": lambda path: path.stem.rpartition("_")[0],
    "Food101": lambda path: path.parent.name,
}
"""Function from an image's path to its class name, for the data sets whose paths have it."""

_DAMAGED = (RuntimeError, OSError, ValueError, LookupError, AttributeError, TypeError)
"""Exceptions of torchvision's readers for damaged lists."""


class TorchvisionDataModule(PublishedDataModule):
    """Data module of a torchvision data set, with torchvision's splits and class names.

    The training images are those of torchvision's train and val splits.

    ``root`` is torchvision's ``root``, or the data set's folder in it, in torchvision's layout::

        root
        ├── flowers-102/{imagelabels.mat, setid.mat, jpg/image_00001.jpg}             Flowers102
        ├── oxford-iiit-pet/{annotations/{trainval,test}.txt, images/<image>.jpg}     OxfordIIITPet
        └── food-101/{meta/{train,test}.json, images/<class>/<image>.jpg}             Food101

    or it contains class folders, ``root/train/<class>`` and ``root/test/<class>``. Images are decoded by
    :func:`~ppssl.data.images.read_image`.

    Args:
        name: Name of the torchvision class.
        root: Folder of the data set, or the folder above it.
        download: Whether torchvision downloads the data set if it is missing.
        check_counts: Whether to raise an error if the numbers of images and classes are not the published ones.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    name: str  # in Lightning it may be None

    def __init__(
        self,
        name: Literal["Flowers102", "OxfordIIITPet", "Food101"],
        root: str,
        *,
        download: bool = False,
        check_counts: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, download=download, check_counts=check_counts, **kwargs)
        if name not in _SIZES:
            raise ArgumentError(f"`name` must be one of {', '.join(_SIZES)}, got {name!r}.")
        self.name = name
        self.title = name
        self.guidance = (
            f"provide torchvision's layout in {_FOLDERS[name]}/, or set `download: true`."
        )

    @property
    def sizes(self) -> Sizes:
        """Numbers of images and classes of the official split."""
        return _SIZES[self.name]

    def home(self, root: Path) -> Path | None:
        """Find the folder of torchvision's layout; ``None`` if there is none."""
        folder = _FOLDERS[self.name]
        places = (root / folder, root)
        return next((place for place in places if place.name == folder and place.is_dir()), None)

    def prepare_data(self) -> None:
        """Let torchvision download the data set, if ``download`` is set and files are missing, all or some."""
        root = expand(self.root)
        if self.download and not self._complete(root):
            home = self.home(root)
            place = root if home is None else home.parent
            place.mkdir(parents=True, exist_ok=True)
            self._dataset(place, "test", download=True)

    def _complete(self, root: Path) -> bool:
        """Whether torchvision can read the data set, or there are class folders."""
        home = self.home(root)
        if home is None:
            return self._present(root)
        try:
            self._dataset(home.parent, "test")
        except UserError:  # an earlier download was interrupted
            return False
        return True

    def read(self, home: Path) -> dict[str, ImageSource]:
        """Read torchvision's lists of files and labels."""
        sources: dict[str, ImageSource] = {}
        for split, parts in _SPLITS[self.name].items():
            datasets = [self._dataset(home.parent, part) for part in parts]
            # private attributes of torchvision: its public API would decode every image
            paths = [
                Path(path)
                for dataset in datasets
                for path in getattr(dataset, "_image_files", None) or dataset._images
            ]
            labels = np.array([n for dataset in datasets for n in dataset._labels], dtype=np.int64)
            classes = [str(name) for name in datasets[0].classes]
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
                raise UserError(
                    f"{home}: the {split} labels must be in 0 to {len(classes) - 1}, for {len(classes)} classes: "
                    "fetch the data set again."
                )
            check_files(home, paths)
            if self.name in _CLASS_OF_PATH:
                _check_labels(
                    home, [_CLASS_OF_PATH[self.name](path) for path in paths], labels, split
                )
            sources[split] = FileSource(home, paths, labels, classes)
        if sources["train"].classes != sources["test"].classes:
            raise UserError(
                f"{home}: the classes of the test images differ from those of the training images."
            )
        return sources

    def _dataset(self, root: Path, split: str, download: bool = False) -> Any:
        try:
            return getattr(torchvision.datasets, self.name)(root, split, download=download)
        except _DAMAGED as error:
            raise UserError(
                f"torchvision cannot read {self.name} in {root}: {error}. Remove it, and fetch it again with "
                "`download: true`."
            ) from error


def _check_labels(home: Path, names: list[str], labels: np.ndarray, split: str) -> None:
    """Check that class names in the paths and labels correspond one to one."""
    label_of: dict[str, int] = {}
    name_of: dict[int, str] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        if label_of.setdefault(name, label) != label or name_of.setdefault(label, name) != name:
            raise UserError(
                f"{home}: the {split} list has label {label} for {name!r}, but also label {label_of[name]} for it, or "
                f"label {label} for {name_of.get(label, name)!r}: fetch the data set again."
            )
