"""Images in folders: what most people have."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.files import EXTENSIONS, FileSource, find_images
from ppssl.data.source import UNKNOWN, ImageSource
from ppssl.utils.errors import UserError, similar_path

__all__ = ["FolderDataModule", "FolderSource", "existing_folder"]


class FolderSource(FileSource):
    """Images below one folder, in sorted order; a sub-folder is a class, and images outside of any have no label.

    Args:
        root: The folder.
        classes: Class names in label order; ``None``: the sub-folders, sorted. Names are compared in Unicode's NFC:
            file systems differ in how they write an accent.

    Raises:
        UserError: No images, or a sub-folder that is none of ``classes``.
    """

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        paths = find_images(root)
        if not paths:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise UserError(
                f"No images in {root}: put them there or in class folders below it ({kinds})."
            )
        names = [_class_folder(path, root) for path in paths]
        if classes is None:
            classes = sorted({name for name in names if name is not None})
        number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
        number[None] = UNKNOWN
        unknown = sorted({name for name in names if name is not None and name not in number})
        if unknown:
            raise UserError(
                f"{root / unknown[0]} is no class of the training images ({len(classes)} classes): "
                "rename or remove it, or add the class to them."
            )
        labels = np.array([number[name] for name in names], dtype=np.int64)
        super().__init__(root, paths, labels, classes)


class FolderDataModule(FineGrainedDataModule):
    """Your own images: ``root/train``, and ``root/val`` and ``root/test`` where there are any; or ``root`` itself.

    Each folder holds class folders, or images without labels. Without ``train/`` all of ``root`` is training images::

        root
        ├── train
        │   ├── wren
        │   │   ├── 1.jpg
        │   │   └── further/folders/2.png
        │   └── finch/...
        ├── val/...       the monitors' images; without it part of the training labels is held out
        └── test/...

    Args:
        root: The folder.
        kwargs: The arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load_sources(self) -> dict[str, ImageSource]:
        """Look for the splits; validation and test have the classes of the training images."""
        root = existing_folder(self.root)
        train = FolderSource(root / "train" if (root / "train").is_dir() else root)
        sources: dict[str, ImageSource] = {"train": train}
        if train.root != root:
            for split in ("val", "test"):
                if (root / split).is_dir():
                    sources[split] = FolderSource(root / split, train.classes)
        return sources


def existing_folder(root: str) -> Path:
    """The folder that ``data.root`` names.

    Raises:
        UserError: There is none, with the nearest name.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"`data.root` is no folder: {path}{similar_path(path, '*/')}.")
    return path


def _class_folder(path: Path, root: Path) -> str | None:
    if path.parent == root:
        return None
    return unicodedata.normalize("NFC", path.relative_to(root).parts[0])
