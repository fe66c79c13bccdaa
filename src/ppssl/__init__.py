"""Priority-perception self-supervised learning for fine-grained recognition (PP-SSL, arXiv 2412.00134)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: the table below again
    from ppssl import functional as functional
    from ppssl.checkpointing.atomic import AtomicCheckpointIO as AtomicCheckpointIO
    from ppssl.checkpointing.run_checkpoint import RunCheckpoint as RunCheckpoint
    from ppssl.classify.finetune import FineTune as FineTune
    from ppssl.classify.linear_probe import LinearProbe as LinearProbe
    from ppssl.data.datamodule import FineGrainedDataModule as FineGrainedDataModule
    from ppssl.data.labelled_augmentation import LabelledAugmentation as LabelledAugmentation
    from ppssl.data.sets.aircraft import AircraftDataModule as AircraftDataModule
    from ppssl.data.sets.any_dataset import DatasetDataModule as DatasetDataModule
    from ppssl.data.sets.cars import CarsDataModule as CarsDataModule
    from ppssl.data.sets.cub import CUBDataModule as CUBDataModule
    from ppssl.data.sets.folder import FolderDataModule as FolderDataModule
    from ppssl.data.sets.torchvision import TorchvisionDataModule as TorchvisionDataModule
    from ppssl.data.source import ImageSource as ImageSource
    from ppssl.data.synthetic.datamodule import SyntheticDataModule as SyntheticDataModule
    from ppssl.data.transforms import MoCoV2Augmentation as MoCoV2Augmentation
    from ppssl.diagnosis.doctor import doctor as doctor
    from ppssl.encoder import EncoderInfo as EncoderInfo
    from ppssl.encoder import load_encoder as load_encoder
    from ppssl.evaluation.evaluate import evaluate as evaluate
    from ppssl.evaluation.evaluate_rows import evaluate_rows as evaluate_rows
    from ppssl.inference.embed import embed as embed
    from ppssl.inference.embeddings import embed_loader as embed_loader
    from ppssl.inference.explain import explain as explain
    from ppssl.inference.export import export as export
    from ppssl.inference.neighbours import neighbours as neighbours
    from ppssl.inference.preprocessing import load_transform as load_transform
    from ppssl.losses.ais.plugin import AIS as AIS
    from ppssl.losses.anchor import Anchor as Anchor
    from ppssl.losses.background.plugin import BackgroundSwap as BackgroundSwap
    from ppssl.losses.contrastive.byol import BYOL as BYOL
    from ppssl.losses.contrastive.moco import MoCo as MoCo
    from ppssl.losses.contrastive.moco_v3 import MoCoV3 as MoCoV3
    from ppssl.losses.contrastive.objective import ContrastiveObjective as ContrastiveObjective
    from ppssl.losses.contrastive.objective import ContrastiveResult as ContrastiveResult
    from ppssl.losses.contrastive.simclr import SimCLR as SimCLR
    from ppssl.losses.distillation import Distillation as Distillation
    from ppssl.losses.iadm.plugin import IADM as IADM
    from ppssl.losses.loss_plugin import LossPlugin as LossPlugin
    from ppssl.losses.loss_plugin import LossTerm as LossTerm
    from ppssl.losses.loss_plugin import TrainingStep as TrainingStep
    from ppssl.metrics.knn import KNNClassifier as KNNClassifier
    from ppssl.metrics.rankme import RankMe as RankMe
    from ppssl.metrics.retrieval import RetrievalMetrics as RetrievalMetrics
    from ppssl.module import PPSSL as PPSSL
    from ppssl.reports.duplicates_page import duplicates as duplicates
    from ppssl.reports.page import report as report
    from ppssl.studies.demo import demo as demo
    from ppssl.text.teachers.base import Teacher as Teacher
    from ppssl.text.teachers.timm_teacher import TimmTeacher as TimmTeacher
    from ppssl.text.teachers.zoom import ZoomTeacher as ZoomTeacher
    from ppssl.utils.config import Configurable as Configurable
    from ppssl.utils.errors import UserError as UserError

__version__ = "0.1.0"

PUBLIC = {
    "functional": "ppssl",
    # training
    "PPSSL": "ppssl.module",
    "MoCo": "ppssl.losses.contrastive.moco",
    "MoCoV3": "ppssl.losses.contrastive.moco_v3",
    "SimCLR": "ppssl.losses.contrastive.simclr",
    "BYOL": "ppssl.losses.contrastive.byol",
    "AIS": "ppssl.losses.ais.plugin",
    "IADM": "ppssl.losses.iadm.plugin",
    "Anchor": "ppssl.losses.anchor",
    "BackgroundSwap": "ppssl.losses.background.plugin",
    "Distillation": "ppssl.losses.distillation",
    "FineTune": "ppssl.classify.finetune",
    "LinearProbe": "ppssl.classify.linear_probe",
    "RunCheckpoint": "ppssl.checkpointing.run_checkpoint",
    "AtomicCheckpointIO": "ppssl.checkpointing.atomic",
    "demo": "ppssl.studies.demo",
    "doctor": "ppssl.diagnosis.doctor",
    # data
    "FolderDataModule": "ppssl.data.sets.folder",
    "DatasetDataModule": "ppssl.data.sets.any_dataset",
    "CUBDataModule": "ppssl.data.sets.cub",
    "CarsDataModule": "ppssl.data.sets.cars",
    "AircraftDataModule": "ppssl.data.sets.aircraft",
    "TorchvisionDataModule": "ppssl.data.sets.torchvision",
    "SyntheticDataModule": "ppssl.data.synthetic.datamodule",
    # using an encoder
    "load_encoder": "ppssl.encoder",
    "load_transform": "ppssl.inference.preprocessing",
    "evaluate": "ppssl.evaluation.evaluate",
    "evaluate_rows": "ppssl.evaluation.evaluate_rows",
    "embed": "ppssl.inference.embed",
    "embed_loader": "ppssl.inference.embeddings",
    "neighbours": "ppssl.inference.neighbours",
    "explain": "ppssl.inference.explain",
    "export": "ppssl.inference.export",
    "duplicates": "ppssl.reports.duplicates_page",
    "report": "ppssl.reports.page",
    "RetrievalMetrics": "ppssl.metrics.retrieval",
    "KNNClassifier": "ppssl.metrics.knn",
    "RankMe": "ppssl.metrics.rankme",
    # writing your own
    "Teacher": "ppssl.text.teachers.base",
    "TimmTeacher": "ppssl.text.teachers.timm_teacher",
    "ZoomTeacher": "ppssl.text.teachers.zoom",
    "LossPlugin": "ppssl.losses.loss_plugin",
    "LossTerm": "ppssl.losses.loss_plugin",
    "TrainingStep": "ppssl.losses.loss_plugin",
    "ContrastiveObjective": "ppssl.losses.contrastive.objective",
    "ContrastiveResult": "ppssl.losses.contrastive.objective",
    "EncoderInfo": "ppssl.encoder",
    "FineGrainedDataModule": "ppssl.data.datamodule",
    "ImageSource": "ppssl.data.source",
    "MoCoV2Augmentation": "ppssl.data.transforms",
    "LabelledAugmentation": "ppssl.data.labelled_augmentation",
    "Configurable": "ppssl.utils.config",
    "UserError": "ppssl.utils.errors",
}
"""The public names, and the module that each is imported from when it is first used."""

__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): ``import ppssl`` itself costs nothing."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'ppssl' has no attribute {name!r}")
    if PUBLIC[name] == __name__:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
