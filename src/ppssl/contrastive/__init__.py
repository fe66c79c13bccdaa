"""The contrastive base that plugins are added to."""

from ppssl.contrastive.base import ContrastiveObjective, ContrastiveResult
from ppssl.contrastive.moco import MoCo
from ppssl.contrastive.queue import KeyQueue

__all__ = ["ContrastiveObjective", "ContrastiveResult", "KeyQueue", "MoCo"]
