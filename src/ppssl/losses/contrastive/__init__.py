"""The contrastive base that plugins are added to."""

from ppssl.losses.contrastive.moco import MoCo
from ppssl.losses.contrastive.objective import ContrastiveObjective, ContrastiveResult
from ppssl.losses.contrastive.queue import KeyQueue

__all__ = ["ContrastiveObjective", "ContrastiveResult", "KeyQueue", "MoCo"]
