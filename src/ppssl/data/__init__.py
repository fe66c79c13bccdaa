"""Data modules: two views and an index for training, gallery and queries for evaluation."""

from ppssl.data.aircraft import AircraftDataModule
from ppssl.data.augment import MoCoV2Augmentation
from ppssl.data.base import FineGrainedDataModule
from ppssl.data.cars import CarsDataModule
from ppssl.data.cub import CUBDataModule
from ppssl.data.folder import FolderDataModule
from ppssl.data.labelled import LabelledAugmentation
from ppssl.data.source import ImageSource
from ppssl.data.synthetic import SyntheticDataModule
from ppssl.data.torchvision_sets import TorchvisionDataModule

__all__ = [
    "AircraftDataModule",
    "CUBDataModule",
    "CarsDataModule",
    "FineGrainedDataModule",
    "FolderDataModule",
    "ImageSource",
    "LabelledAugmentation",
    "MoCoV2Augmentation",
    "SyntheticDataModule",
    "TorchvisionDataModule",
]
