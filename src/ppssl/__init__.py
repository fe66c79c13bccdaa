"""Priority-perception self-supervised learning for fine-grained recognition (PP-SSL, arXiv 2412.00134)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppssl.classify.finetune import FineTune
    from ppssl.classify.linear_probe import LinearProbe
    from ppssl.data import (
        AircraftDataModule,
        CarsDataModule,
        CUBDataModule,
        FineGrainedDataModule,
        FolderDataModule,
        ImageSource,
        LabelledAugmentation,
        MoCoV2Augmentation,
        SyntheticDataModule,
        TorchvisionDataModule,
    )
    from ppssl.encoder import load_encoder
    from ppssl.evaluation.evaluate import evaluate
    from ppssl.evaluation.rows import evaluate_rows
    from ppssl.inference.embed import embed
    from ppssl.inference.embedding_file import write_embeddings
    from ppssl.inference.explain import explain
    from ppssl.inference.export import export
    from ppssl.inference.neighbours import neighbours
    from ppssl.losses.ais.plugin import AIS
    from ppssl.losses.base import LossPlugin, LossTerm, TrainingStep
    from ppssl.losses.contrastive import MoCo
    from ppssl.losses.iadm.plugin import IADM
    from ppssl.module import PPSSL
    from ppssl.utils.errors import UserError

__version__ = "0.1.0"

_HOMES = {
    "AIS": "ppssl.losses.ais.plugin",
    "IADM": "ppssl.losses.iadm.plugin",
    "PPSSL": "ppssl.module",
    "AircraftDataModule": "ppssl.data",
    "CUBDataModule": "ppssl.data",
    "CarsDataModule": "ppssl.data",
    "FineGrainedDataModule": "ppssl.data",
    "FineTune": "ppssl.classify.finetune",
    "FolderDataModule": "ppssl.data",
    "ImageSource": "ppssl.data",
    "LabelledAugmentation": "ppssl.data",
    "LinearProbe": "ppssl.classify.linear_probe",
    "MoCo": "ppssl.losses.contrastive",
    "MoCoV2Augmentation": "ppssl.data",
    "SyntheticDataModule": "ppssl.data",
    "TorchvisionDataModule": "ppssl.data",
    "LossPlugin": "ppssl.losses.base",
    "LossTerm": "ppssl.losses.base",
    "TrainingStep": "ppssl.losses.base",
    "UserError": "ppssl.utils.errors",
    "embed": "ppssl.inference.embed",
    "evaluate": "ppssl.evaluation.evaluate",
    "evaluate_rows": "ppssl.evaluation.rows",
    "export": "ppssl.inference.export",
    "explain": "ppssl.inference.explain",
    "load_encoder": "ppssl.encoder",
    "neighbours": "ppssl.inference.neighbours",
    "write_embeddings": "ppssl.inference.embedding_file",
}

__all__ = [  # imported when first used, see __getattr__
    "AIS",
    "IADM",
    "PPSSL",
    "AircraftDataModule",
    "CUBDataModule",
    "CarsDataModule",
    "FineGrainedDataModule",
    "FineTune",
    "FolderDataModule",
    "ImageSource",
    "LabelledAugmentation",
    "LinearProbe",
    "LossPlugin",
    "LossTerm",
    "MoCo",
    "MoCoV2Augmentation",
    "SyntheticDataModule",
    "TorchvisionDataModule",
    "TrainingStep",
    "UserError",
    "embed",
    "evaluate",
    "evaluate_rows",
    "explain",
    "export",
    "load_encoder",
    "neighbours",
    "write_embeddings",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): ``import ppssl`` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ppssl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
