"""Data module of image folders: ``root/<split>/<class>/*.jpg``, or images without labels."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.files import FileSource
from ppssl.data.scan import scan_images
from ppssl.data.sets.layout import find_layout, warn_of_classes
from ppssl.data.source import UNKNOWN, ImageSource, PassedOver
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.paths import expand

__all__ = ["FolderDataModule", "FolderSource", "existing_folder"]


class FolderSource(FileSource):
    """Images below one folder, in sorted order, with their sub-folder as class; images in no sub-folder have no label.

    Args:
        root: Folder of the images.
        classes: Class names in label order; ``None``: the sub-folders, sorted. Names are compared in Unicode's normal
            form NFC, because file systems encode accents differently.

    Raises:
        UserError: There are no images, or a sub-folder is not one of ``classes``.
    """

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        scan = scan_images(root)
        paths = scan.paths
        if not paths:
            others = [f"{count:,} {why}" for why, (count, _) in scan.passed_over.items()]
            there = f" (but {', '.join(others[:3])})" if others else ""
            raise UserError(
                f"No images in {root}{there}: put images that Pillow reads (.jpg, .png, .tif, ...) there, or in class "
                "folders below it."
            )
        names = [_class_folder(path, root) for path in paths]
        if classes is None:
            classes = sorted({name for name in names if name is not None})
        label_of: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
        label_of[None] = UNKNOWN
        unknown = sorted({name for name in names if name is not None and name not in label_of})
        if unknown:
            raise UserError(
                f"{root / unknown[0]} is not one of the {len(classes)} classes of the training images: "
                "rename or remove it, or add training images of the class."
            )
        labels = np.array([label_of[name] for name in names], dtype=np.int64)
        super().__init__(root, paths, labels, classes)
        self.passed_over = scan.passed_over | _empty_folders(root, paths)


class FolderDataModule(FineGrainedDataModule):
    """Data module of your own images in ``root/train`` and, optionally, ``root/val`` and ``root/test``.

    Each folder contains class folders, or images without labels. Without ``root/train`` all images below ``root`` are
    training images. Split folders may also be named training; valid, validation, dev; testing; in any case, and lie
    in the only sub-folder of ``root`` (``root/images/train``). Names that may be more than one split (eval, trainval),
    two folders of one split, and splits without a training split are refused. Every format is read that Pillow reads,
    also without an ending::

        root
        ├── train
        │   ├── wren
        │   │   ├── 1.jpg
        │   │   └── further/folders/2.png
        │   └── finch/...
        ├── val/...       images of the online monitors; without it a part of the training labels is held out
        └── test/...

    Args:
        root: Folder of the images.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load_sources(self) -> dict[str, ImageSource]:
        """Find the images of each split; validation and test images have the classes of the training images."""
        root = existing_folder(self.root)
        layout = find_layout(root)
        train = FolderSource(layout.splits.get("train", layout.home))
        sources: dict[str, ImageSource] = {"train": train}
        for split, folder in layout.splits.items():
            if split != "train":
                sources[split] = FolderSource(folder, train.classes)
        warn_of_classes(layout, train)
        return sources


def existing_folder(root: str) -> Path:
    """Path of the folder that ``data.root`` names.

    Raises:
        UserError: It does not exist; the message suggests a similar name.
    """
    path = expand(root)
    if not path.is_dir():
        raise UserError(f"`data.root` is not a folder: {path}{similar_path(path, '*/')}.")
    return path


def _class_folder(path: Path, root: Path) -> str | None:
    """Name of the sub-folder of ``root`` that contains an image, in NFC; ``None`` for an image in ``root`` itself."""
    if path.parent == root:
        return None
    return unicodedata.normalize("NFC", path.relative_to(root).parts[0])


def _empty_folders(root: Path, paths: list[Path]) -> PassedOver:
    """Sub-folders of ``root`` without an image: classes that would vanish."""
    used = {path.relative_to(root).parts[0] for path in paths}
    folders = [path for path in root.iterdir() if not path.name.startswith(".")]
    empty = sorted(path.name for path in folders if path.name not in used and path.is_dir())
    return {"folders without images": (len(empty), empty[0])} if empty else {}
