"""Base class of the published data sets: official splits with known sizes, several layouts, download."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.files import FileSource
from ppssl.data.report import merged
from ppssl.data.sets.download import Archive, obtain
from ppssl.data.sets.folder import FolderSource, existing_folder
from ppssl.data.sets.layout import split_folders
from ppssl.data.sets.tables import raise_file_error
from ppssl.data.source import ImageSource
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand

__all__ = ["PublishedDataModule", "Sizes", "check_files", "class_folders"]


@dataclass(frozen=True)
class Sizes:
    """Numbers of training images, test images and classes of a complete copy."""

    train: int
    test: int
    classes: int


class PublishedDataModule(FineGrainedDataModule):
    """Base class of a published data set, in its official layout or in class folders ``root/train`` and ``root/test``.

    The training images are the official ones; an official validation part is added to them, as in the literature, and
    ``val_fraction`` holds out labels for the online monitors. Labels count from 0.

    Args:
        root: Folder of the data set, or the folder above it.
        download: Whether to download the data set if it is missing.
        check_counts: Whether to raise an error if the numbers of images and classes are not the published ones.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    title: str
    guidance: str
    """Where to get the data set and how to arrange its files; the end of an error message."""
    archive: ClassVar[Archive | None] = None

    def __init__(
        self, root: str, *, download: bool = False, check_counts: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download
        self.check_counts = check_counts

    @property
    @abstractmethod
    def sizes(self) -> Sizes:
        """Numbers of images and classes of the official split."""

    @abstractmethod
    def home(self, root: Path) -> Path | None:
        """Find the folder of the official layout, at or below ``root``; ``None`` if there is none."""

    @abstractmethod
    def read(self, home: Path) -> dict[str, ImageSource]:
        """Read the splits ``train`` and ``test`` of the official layout."""

    def prepare_data(self) -> None:
        """Download and extract the data set, if ``download`` is set and the files are missing."""
        root = expand(self.root)
        if not self.download or self._present(root):
            return
        if self.archive is None:
            raise UserError(
                f"{self.title} is not in {root}, and ppssl cannot download it: {self.guidance}"
            )
        obtain(self.archive, root, lambda: self._present(root))

    def load_sources(self) -> dict[str, ImageSource]:
        """Find and read the layout, and compare it with the published numbers.

        Raises:
            UserError: The data set is missing, malformed or incomplete.
        """
        self.prepare_data()  # evaluation has no Trainer that calls it
        root = existing_folder(self.root)
        if not self._present(root):
            raise UserError(f"{self.title} is not in {root}: {self.guidance}")
        home = self.home(root)
        sources = class_folders(root) if home is None else self.read(home)
        if self.check_counts:
            self._check(root, sources)
        return sources

    def _present(self, root: Path) -> bool:
        if self.home(root) is not None:
            return True
        return root.is_dir() and {"train", "test"} <= split_folders(root).keys()

    def _check(self, root: Path, sources: dict[str, ImageSource]) -> None:
        train, test, published = sources["train"], sources["test"], self.sizes
        counts = (
            ("training images", len(train), published.train),
            ("test images", len(test), published.test),
            ("classes", len(train.classes), published.classes),
        )
        differences = [f"{n:,} {name} of {size:,}" for name, n, size in counts if n != size]
        if differences:
            raise UserError(
                f"{self.title} in {root} differs from the published data set: it has {', '.join(differences)}. Get a "
                "complete copy, or set `check_counts: false`."
            )


def class_folders(root: Path) -> dict[str, ImageSource]:
    """Read the splits ``train`` and ``test`` from class folders; images of ``val`` are training images."""
    folders = split_folders(root)
    train = FolderSource(folders["train"])
    test = FolderSource(folders["test"], train.classes)
    if "val" not in folders:
        return {"train": train, "test": test}
    val = FolderSource(folders["val"], train.classes)
    labels = np.concatenate([train.labels, val.labels])
    train_and_val = FileSource(root, train.paths + val.paths, labels, train.classes)
    train_and_val.passed_over = merged([train, val])
    return {"train": train_and_val, "test": test}


def check_files(listed_in: Path, paths: list[Path]) -> None:
    """Check that all files exist.

    Args:
        listed_in: File that lists them, for the message.
        paths: The files.

    Raises:
        UserError: Files are missing; the message has their number and the first one.
    """
    existing = {folder: _names(folder) for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in existing[path.parent]]
    if missing:
        raise_file_error(
            listed_in,
            f"missing images: {len(missing):,} of {len(paths):,}; the first is {missing[0]}",
        )


def _names(folder: Path) -> set[str]:
    """Names of a folder's entries; none if it does not exist."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
