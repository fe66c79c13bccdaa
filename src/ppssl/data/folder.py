"""Images in folders: what most people have."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ppssl.data.base import FineGrainedDataModule
from ppssl.data.source import UNKNOWN, ImageSource, digest
from ppssl.errors import UserError

__all__ = ["FileSource", "FolderDataModule", "FolderSource"]

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


class FileSource(ImageSource):
    """Image files, without labels.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.labels = np.full(len(self.paths), UNKNOWN, dtype=np.int64)
        self.classes = []

    def load(self, i: int) -> Image.Image:
        """Image ``i`` in RGB, turned upright by its EXIF orientation."""
        with Image.open(self.paths[i]) as image:
            return _rgb(ImageOps.exif_transpose(image))

    def name(self, i: int) -> str:
        """The image's path."""
        return str(self.paths[i])


class FolderSource(FileSource):
    """Images below one folder, in sorted order; a sub-folder is a class, and images outside of any have no label.

    Args:
        root: The folder.
        classes: Class names in label order; ``None``: the sub-folders, sorted.

    Raises:
        UserError: No images, or a sub-folder that is none of ``classes``.
    """

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        super().__init__(_images(root))
        self.root = root
        if not self.paths:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise UserError(
                f"No images in {root}: put them there or in class folders below it ({kinds})."
            )
        names = [
            path.relative_to(root).parts[0] if path.parent != root else None for path in self.paths
        ]
        self.classes = (
            sorted({name for name in names if name is not None}) if classes is None else classes
        )
        number: dict[str | None, int] = {name: i for i, name in enumerate(self.classes)} | {
            None: UNKNOWN
        }
        unknown = sorted({name for name in names if name is not None and name not in number})
        if unknown:
            raise UserError(
                f"{root / unknown[0]} is no class of the training images ({len(self.classes)} classes): "
                "rename or remove it, or add the class to them."
            )
        self.labels = np.array([number[name] for name in names], dtype=np.int64)

    def fingerprint(self) -> str:
        """Of relative paths and file sizes: it stays when the folder moves, and reads no image."""
        return digest(
            f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path in self.paths
        )


class FolderDataModule(FineGrainedDataModule):
    """Your own images: ``root/train``, and ``root/val`` and ``root/test`` where there are any; or ``root`` itself.

    Each folder holds class folders, or images without labels. Without ``train/`` all of ``root`` is training images.

    Args:
        root: The folder.
        kwargs: The arguments of :class:`~ppssl.data.base.FineGrainedDataModule`.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load_sources(self) -> dict[str, ImageSource]:
        """Look for the splits; validation and test have the classes of the training images."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"`data.root` is no folder: {root}{_nearest(root)}.")
        train = FolderSource(root / "train" if (root / "train").is_dir() else root)
        sources: dict[str, ImageSource] = {"train": train}
        if train.root != root:
            for split in ("val", "test"):
                if (root / split).is_dir():
                    sources[split] = FolderSource(root / split, train.classes)
        return sources


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow clips these to 8 bits: nearly all would be white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _images(root: Path) -> list[Path]:
    found = (
        path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()
    )
    return sorted(
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _nearest(path: Path) -> str:
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""
