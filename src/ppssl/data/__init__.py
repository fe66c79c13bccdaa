"""Data modules: two views and an index for training, gallery and queries for evaluation."""

from ppssl.data.augment import MoCoV2Augmentation
from ppssl.data.base import FineGrainedDataModule
from ppssl.data.folder import FolderDataModule
from ppssl.data.source import ImageSource
from ppssl.data.synthetic import SyntheticDataModule

__all__ = [
    "FineGrainedDataModule",
    "FolderDataModule",
    "ImageSource",
    "MoCoV2Augmentation",
    "SyntheticDataModule",
]
