"""Sets that torchvision reads and downloads: Flowers102, OxfordIIITPet, Food101."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torchvision.datasets

from ppssl.data.files import FileSource
from ppssl.data.sets.published import PublishedDataModule, Sizes, check_files
from ppssl.data.source import ImageSource
from ppssl.utils.errors import UserError

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


_OWN_NAME: dict[str, Callable[[Path], str]] = {
    "OxfordIIITPet": lambda path: path.stem.rpartition("_")[0],
    "Food101": lambda path: path.parent.name,
}
"""The class that an image's path names, where it does."""


class TorchvisionDataModule(PublishedDataModule):
    """A set that torchvision reads, with torchvision's splits and class names; training images are train + val.

    ``root`` is torchvision's, or the set's folder in it, laid out as torchvision does::

        root
        ├── flowers-102/{imagelabels.mat, setid.mat, jpg/image_00001.jpg}             Flowers102
        ├── oxford-iiit-pet/{annotations/{trainval,test}.txt, images/<image>.jpg}     OxfordIIITPet
        └── food-101/{meta/{train,test}.json, images/<class>/<image>.jpg}             Food101

    or it holds class folders, ``root/train/<class>`` and ``root/test/<class>``. The images themselves are read as all
    others (:func:`~ppssl.data.images.read_image`).

    Args:
        name: Which.
        root: The folder.
        download: Let torchvision fetch what is not there yet.
        check_counts: Refuse a copy whose numbers of images and classes are not the published ones.
        kwargs: The arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    name: str  # Lightning's own may be None

    def __init__(
        self,
        name: Literal["Flowers102", "OxfordIIITPet", "Food101"],
        root: str,
        download: bool = False,
        check_counts: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, download, check_counts, **kwargs)
        if name not in _SIZES:
            raise ValueError(f"`name` must be one of {', '.join(_SIZES)}, got {name!r}.")
        self.name = name
        self.title = name
        self.guidance = (
            f"torchvision lays it out as {_FOLDERS[name]}/; `download: true` lets it do so."
        )

    @property
    def sizes(self) -> Sizes:
        """The official split."""
        return _SIZES[self.name]

    def home(self, root: Path) -> Path | None:
        """The folder that torchvision makes."""
        folder = _FOLDERS[self.name]
        places = (root / folder, root)
        return next((place for place in places if place.name == folder and place.is_dir()), None)

    def prepare_data(self) -> None:
        """Let torchvision download, where that is asked for and the files are not there."""
        root = Path(self.root).expanduser()
        if self.download and not self._present(root):
            root.mkdir(parents=True, exist_ok=True)
            self._dataset(root, "test", download=True)

    def read(self, home: Path) -> dict[str, ImageSource]:
        """The lists of files and labels that torchvision makes."""
        sources: dict[str, ImageSource] = {}
        for split, parts in _SPLITS[self.name].items():
            datasets = [self._dataset(home.parent, part) for part in parts]
            # torchvision keeps the lists to itself; by its public names each image would have to be decoded
            paths = [
                Path(path)
                for dataset in datasets
                for path in getattr(dataset, "_image_files", None) or dataset._images
            ]
            labels = np.array([n for dataset in datasets for n in dataset._labels], dtype=np.int64)
            classes = [str(name) for name in datasets[0].classes]
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
                raise UserError(
                    f"{home}: its {split} labels are not those of {len(classes)} classes."
                )
            check_files(home, paths)
            if self.name in _OWN_NAME:
                _check_labels(home, [_OWN_NAME[self.name](path) for path in paths], labels, split)
            sources[split] = FileSource(home, paths, labels, classes)
        if sources["train"].classes != sources["test"].classes:
            raise UserError(f"{home}: the classes of its test images are not those of training.")
        return sources

    def _dataset(self, root: Path, split: str, download: bool = False) -> Any:
        try:
            return getattr(torchvision.datasets, self.name)(root, split, download=download)
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            raise UserError(
                f"torchvision cannot read {self.name} in {root}: {error}. Remove what is there, and fetch it anew with "
                "`download: true`."
            ) from error


def _check_labels(home: Path, names: list[str], labels: np.ndarray, split: str) -> None:
    """Images that are named after one class must have one label, and no other class's images that one."""
    label_of: dict[str, int] = {}
    name_of: dict[int, str] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        if label_of.setdefault(name, label) != label or name_of.setdefault(label, name) != name:
            raise UserError(
                f"{home}: its {split} list gives {name!r} the label {label}, and elsewhere label {label_of[name]} or "
                f"to {name_of.get(label, name)!r}: fetch it anew."
            )
