"""Data sets, data modules, image sources and augmentations."""

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.labelled_augmentation import LabelledAugmentation
from ppssl.data.sets.aircraft import AircraftDataModule
from ppssl.data.sets.cars import CarsDataModule
from ppssl.data.sets.cub import CUBDataModule
from ppssl.data.sets.folder import FolderDataModule
from ppssl.data.sets.torchvision import TorchvisionDataModule
from ppssl.data.source import ImageSource
from ppssl.data.synthetic.datamodule import SyntheticDataModule
from ppssl.data.transforms import MoCoV2Augmentation

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
