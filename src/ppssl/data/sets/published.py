"""What the published data sets have in common: official splits with known sizes, several layouts, downloads."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.files import FileSource
from ppssl.data.sets.download import Archive, obtain
from ppssl.data.sets.folder import FolderSource, existing_folder
from ppssl.data.sets.tables import fail
from ppssl.data.source import ImageSource
from ppssl.utils.errors import UserError

__all__ = ["PublishedDataModule", "Sizes", "check_files", "class_folders"]


@dataclass(frozen=True)
class Sizes:
    """How many training images, test images and classes a complete copy has."""

    train: int
    test: int
    classes: int


class PublishedDataModule(FineGrainedDataModule):
    """A published data set, in its official layout or in class folders ``root/train`` and ``root/test``.

    The training images are the official ones; where there is a validation part, it belongs to them, as in the
    literature, and ``val_fraction`` holds out labels for the monitors. Labels count from 0.

    Args:
        root: The folder that the set lies in, or the set's own folder.
        download: Fetch what is not there yet.
        check_counts: Refuse a copy whose numbers of images and classes are not the published ones.
        kwargs: The arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    title: str
    guidance: str
    """Where to get it, and how to lay it out."""
    archive: ClassVar[Archive | None] = None

    def __init__(
        self, root: str, download: bool = False, check_counts: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download
        self.check_counts = check_counts

    @property
    @abstractmethod
    def sizes(self) -> Sizes:
        """What the official splits hold."""

    @abstractmethod
    def home(self, root: Path) -> Path | None:
        """The folder of the official layout, at or below ``root``; ``None`` where there is none."""

    @abstractmethod
    def read(self, home: Path) -> dict[str, ImageSource]:
        """``train`` and ``test`` of the official layout."""

    def prepare_data(self) -> None:
        """Download and extract, where that is asked for and the files are not there."""
        root = Path(self.root).expanduser()
        if not self.download or self._present(root):
            return
        if self.archive is None:
            raise UserError(
                f"{self.title} is not in {root} and ppssl cannot download it: {self.guidance}"
            )
        obtain(self.archive, root, lambda: self._present(root))

    def load_sources(self) -> dict[str, ImageSource]:
        """Find the layout, read it, and compare with the published numbers."""
        self.prepare_data()  # who evaluates has no Trainer that asks for it
        root = existing_folder(self.root)
        if not self._present(root):
            raise UserError(f"{self.title} is not in {root}: {self.guidance}")
        home = self.home(root)
        sources = class_folders(root) if home is None else self.read(home)
        if self.check_counts:
            self._check(root, sources)
        return sources

    def _present(self, root: Path) -> bool:
        folders = (root / "train").is_dir() and (root / "test").is_dir()
        return folders or self.home(root) is not None

    def _check(self, root: Path, sources: dict[str, ImageSource]) -> None:
        train, test, sizes = sources["train"], sources["test"], self.sizes
        found = Sizes(len(train), len(test), len(train.classes))
        names = {"train": "training images", "test": "test images", "classes": "classes"}
        wrong = [
            f"{getattr(found, part):,} {name} of {getattr(sizes, part):,}"
            for part, name in names.items()
            if getattr(found, part) != getattr(sizes, part)
        ]
        if wrong:
            raise UserError(
                f"{self.title} in {root} is not the published set: it has {', '.join(wrong)}. Complete it, or take "
                "it as it is with `check_counts: false`."
            )


def class_folders(root: Path) -> dict[str, ImageSource]:
    """``train`` and ``test`` from class folders; images of ``val`` are training images."""
    train = FolderSource(root / "train")
    test = FolderSource(root / "test", train.classes)
    if not (root / "val").is_dir():
        return {"train": train, "test": test}
    val = FolderSource(root / "val", train.classes)
    labels = np.concatenate([train.labels, val.labels])
    both = FileSource(root, train.paths + val.paths, labels, train.classes)
    return {"train": both, "test": test}


def check_files(listed_in: Path, paths: list[Path]) -> None:
    """Make sure that all files exist.

    Raises:
        UserError: Some do not; how many, and the first one.
    """
    there = {folder: _names(folder) for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in there[path.parent]]
    if missing:
        fail(
            listed_in,
            f"{len(paths) - len(missing):,} of its {len(paths):,} images are there, and {missing[0]} is not",
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
