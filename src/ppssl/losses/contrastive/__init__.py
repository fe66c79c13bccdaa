"""The contrastive base that plugins are added to."""

from ppssl.losses.contrastive.byol import BYOL
from ppssl.losses.contrastive.moco import MoCo
from ppssl.losses.contrastive.moco_v3 import MoCoV3
from ppssl.losses.contrastive.objective import ContrastiveObjective, ContrastiveResult
from ppssl.losses.contrastive.queue import KeyQueue
from ppssl.losses.contrastive.simclr import SimCLR

__all__ = [
    "BYOL",
    "ContrastiveObjective",
    "ContrastiveResult",
    "KeyQueue",
    "MoCo",
    "MoCoV3",
    "SimCLR",
]
