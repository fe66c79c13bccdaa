"""Layout of a folder of images: which sub-folders are splits, and which are classes."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from ppssl.data.scan import has_images, image_endings
from ppssl.data.source import ImageSource
from ppssl.utils.errors import UserError

__all__ = ["SPELLINGS", "Layout", "find_layout", "split_folders", "warn_of_classes"]

SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of a split's folder, in upper or lower case."""

_UNCLEAR = {
    "eval": "`val` or `test`",
    "evaluation": "`val` or `test`",
    "trainval": "`train`",
}
"""Names of folders that are splits, but not clear which, and what to rename them to."""

_SPLIT_OF = {name: split for split, names in SPELLINGS.items() for name in names}
_DEPTH = 3


@dataclass
class Layout:
    """Folders of the splits.

    Attributes:
        home: The folder they are in: the root or one below it.
        splits: Folder of each split; empty if all images of ``home`` are training images.
        unread: Folders beside them, which are not read.
    """

    home: Path
    splits: dict[str, Path] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)


def find_layout(root: Path) -> Layout:
    """Find the split folders in ``root`` or in its only sub-folder with images, up to three levels below it.

    Raises:
        UserError: Two folders are the same split, a split's name is unclear, there is no training split, or several
            sub-folders have one.
    """
    home = root
    for _ in range(_DEPTH + 1):
        splits = split_folders(home)
        if "train" in splits:
            return _with_unread(home, splits)
        folder = _folder_with_splits(home)
        if folder is None:
            break
        home = folder
    _refuse_splits_as_classes(root)
    return Layout(root)


def split_folders(folder: Path) -> dict[str, Path]:
    """Sub-folders that are named like splits, in the order train, val, test.

    Raises:
        UserError: Two are the same split, or beside a training split there is a name such as ``eval``.
    """
    splits: dict[str, Path] = {}
    folders = _folders(folder)
    for path in folders:
        split = _SPLIT_OF.get(path.name.casefold())
        if split is not None and split in splits:
            raise UserError(
                f"{splits[split]} and {path} are both the split `{split}`: keep one, or join them."
            )
        if split is not None:
            splits[split] = path
    for path in folders:
        name = path.name.casefold()
        if "train" in splits and name in _UNCLEAR:
            raise UserError(
                f"{path} may be one split or another: rename it {_UNCLEAR[name]}, or move it elsewhere."
            )
    return {split: splits[split] for split in SPELLINGS if split in splits}


def warn_of_classes(layout: Layout, train: ImageSource) -> None:
    """Warn of a layout that is read, but probably not as it was meant."""
    if layout.unread:
        names = ", ".join(path.name for path in layout.unread[:5])
        rank_zero_warn(
            f"{len(layout.unread)} folders beside {layout.splits['train']} are not read: {names}. If they are classes, "
            "move them into it."
        )
    alike = [name for name in train.classes if _looks_like(name)]
    if alike:
        rank_zero_warn(
            f"The class `{alike[0]}` is named like a split: if it is one, name the folders train, val and test in one "
            "folder, and set `data.root` to that."
        )
    folder = layout.splits.get("train", layout.home)
    if len(train.classes) == 1:
        inner = folder / train.classes[0]
        below = _folders(inner) if inner.is_dir() else []
        if len(below) > 1 and not _direct_images(inner):
            rank_zero_warn(
                f"All images are of one class, `{inner.name}`, with {len(below)} folders in it: if these are the "
                "classes, move them up a level."
            )


def _folders(folder: Path) -> list[Path]:
    """Sub-folders that are not hidden, sorted."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    return [folder / name for name in sorted(names)]


def _with_unread(home: Path, splits: dict[str, Path]) -> Layout:
    others = [path for path in _folders(home) if path not in splits.values()]
    return Layout(home, splits, [path for path in others if has_images(path)])


def _folder_with_splits(folder: Path) -> Path | None:
    """The sub-folder to look for splits in: the only one with a training split, or the only one at all."""
    folders = _folders(folder)
    inner = [path for path in folders if "train" in split_folders(path)]
    if len(inner) > 1:
        raise UserError(
            f"{inner[0].name} and {inner[1].name} in {folder} both have a training split: set `data.root` to one of "
            "them, or arrange the images as train/<class>, val/<class>, test/<class>."
        )
    candidates = inner or folders[: 1 if len(folders) == 1 else 0]
    if not candidates or _direct_images(folder):
        return None
    others = [path for path in folders if path != candidates[0]]
    return None if any(has_images(path) for path in others) else candidates[0]


def _refuse_splits_as_classes(root: Path) -> None:
    """Raise an error if all folders are named like splits, and none of them is a training split."""
    folders = _folders(root)
    kinds = {_looks_like(path.name) for path in folders}
    exact = all(path.name.casefold() in _SPLIT_OF | _UNCLEAR for path in folders)
    if folders and None not in kinds and (exact or len(kinds) > 1) and not _direct_images(root):
        names = ", ".join(path.name for path in folders)
        raise UserError(
            f"The folders of {root} are named like splits, but none is `train`: {names}. Rename them train, val and "
            "test, or set `data.root` to one of them."
        )


def _looks_like(name: str) -> str | None:
    """The split that a word of a name stands for, as in ``seg_train`` or ``val2017``."""
    words = re.split(r"[\W\d_]+", name.casefold())
    splits = [_SPLIT_OF.get(word) or ("unclear" if word in _UNCLEAR else None) for word in words]
    return next((split for split in splits if split), None)


def _direct_images(folder: Path) -> bool:
    """Whether there are images in a folder itself."""
    with os.scandir(folder) as entries:
        return any(
            os.path.splitext(e.name)[1].lower() in image_endings() and e.is_file()
            for e in entries
            if not e.name.startswith(".")
        )
