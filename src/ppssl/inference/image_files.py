"""Image files that a user names, from anywhere."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppssl.data.files import FileSource
from ppssl.data.sets.folder import FolderSource
from ppssl.data.source import UNKNOWN
from ppssl.utils.errors import UserError, similar_path
from ppssl.utils.paths import AnyPath, expand

__all__ = ["ImageFiles", "image_files"]


class ImageFiles(FileSource):
    """Image files without labels, from anywhere.

    Args:
        paths: The files.
        bit_depth: See :func:`~ppssl.data.images.read_image`.
    """

    def __init__(self, paths: Sequence[Path], bit_depth: int | None = None) -> None:
        super().__init__(Path(), paths, np.full(len(paths), UNKNOWN), [])
        self.bit_depth = bit_depth

    def picture_names(self) -> list[str]:
        """Names for pictures of the images: ``class0-1`` for class0/1.png below the folder that all images share."""
        paths = [Path(os.path.abspath(path)) for path in self.paths]
        shared = os.path.commonpath([path.parent for path in paths])
        return ["-".join(path.relative_to(shared).with_suffix("").parts) for path in paths]


def image_files(paths: Sequence[AnyPath]) -> ImageFiles:
    """Collect the image files among files and folders, in order and without duplicates.

    Raises:
        UserError: A file or folder does not exist, or there are no images.
    """
    files: list[Path] = []
    for path in map(expand, paths):
        if not path.exists():
            raise UserError(f"No such image or folder: {path}{similar_path(path)}.")
        files += FolderSource(path).paths if path.is_dir() else [path]
    if not files:
        raise UserError("No images: give image files, or folders of image files.")
    return ImageFiles(list(dict.fromkeys(files)))
