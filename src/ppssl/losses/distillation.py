"""Distillation of a teacher's image embeddings as a loss plugin: AIS without a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep, check_dim, numbered_images
from ppssl.text.image_bank import ImageBank, open_image_bank
from ppssl.text.teachers.base import Teacher
from ppssl.utils.checks import check_range
from ppssl.utils.errors import UserError

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.encoder import EncoderInfo

__all__ = ["Distillation"]


class Distillation(LossPlugin):
    """Distillation of a frozen teacher's image embeddings: ``L = mean (1 - cos(W p, v - mean v))``.

    p is the embedding of the query's view, v the teacher's embedding of the original image, looked up in a bank that is
    made once before training, and ``mean v`` its mean over the training images, without which all cosines would be
    close to 1. W is a linear head. The teacher sees more than the student: it is larger, its images are, or both.

    Args:
        teacher: ``timm/<model>`` for an image encoder of timm with its weights, a CLIP or SigLIP as hub id or local
            folder, or a :class:`~ppssl.text.teachers.base.Teacher` such as :class:`~ppssl.TimmTeacher`.
        loss_weight: Weight of the term.
        teacher_views: Number k of fixed crops of each image for the teacher; the cosine is averaged over them.
        memory_map: Leave the teacher's embeddings on disk; otherwise they are read into memory.
        bank_dir: Folder of the banks; ``None``: ``$PPSSL_CACHE/banks`` or ``~/.cache/ppssl/banks``.
    """

    def __init__(
        self,
        teacher: str | Teacher,
        *,
        loss_weight: float = 10.0,
        teacher_views: int = 1,
        memory_map: bool = True,
        bank_dir: str | None = None,
    ) -> None:
        super().__init__()
        check_range(">= 0", loss_weight=loss_weight)
        check_range(">= 1", teacher_views=teacher_views)
        self.teacher = teacher
        self.loss_weight = loss_weight
        self.teacher_views = teacher_views
        self.memory_map = memory_map
        self.bank_dir = bank_dir
        self._dim: int | None = None
        self._bank: ImageBank | None = None

    @property
    def uses_bank(self) -> bool:
        """For the teacher."""
        return True

    def prepare(self, data: FineGrainedDataModule, device: torch.device) -> None:
        """Find or make the bank of the training images.

        Raises:
            UserError: The head is there already, for embeddings of another length; see also
                :func:`~ppssl.text.image_bank.open_image_bank`.
        """
        with isolate_rng():  # loading a model draws random numbers
            self._bank = open_image_bank(
                self.teacher,
                numbered_images(data, self),
                views=self.teacher_views,
                folder=self.bank_dir,
                memory_map=self.memory_map,
                device=device,
            )
        dim = len(self._bank.mean)
        if hasattr(self, "head"):
            check_dim(self, self._dim, dim)
        self._dim = dim

    def sizes(self) -> dict[str, int]:
        """Embedding length of the teacher, which the head is created with."""
        return {} if self._dim is None else {"teacher_dim": self._dim}

    def restore_sizes(self, sizes: Mapping[str, int]) -> None:
        """See :meth:`sizes`."""
        self._dim = sizes["teacher_dim"]

    def build(self, encoder: EncoderInfo) -> None:
        """Create the head; needs the bank."""
        if self._dim is None:
            raise UserError(
                "Distillation has no bank yet: train with a Trainer and a data module of ppssl, or call "
                "`prepare(data, device)` first."
            )
        self.head = nn.Linear(encoder.dim, self._dim)

    def weight(self, progress: float) -> float:
        """The same throughout the training."""
        return self.loss_weight

    def forward(self, step: TrainingStep) -> LossTerm:
        """``1 - cos(W p, v - mean v)`` of each image, ``(B,)`` float32, the mean over the teacher's views."""
        s = F.normalize(self.head(step.embedding).float(), dim=1)
        v = self._centred(step.batch["index"]).to(s.device)
        with torch.autocast(s.device.type, enabled=False):
            cosine = torch.einsum("be,bke->bk", s, v).mean(dim=1)
        return LossTerm(1 - cosine, {"cosine": cosine.detach().mean()})

    def _centred(self, index: Tensor) -> Tensor:
        """Teacher embeddings of images less their mean, ``(B, k, e)`` float32, L2-normalised."""
        if self._bank is None:
            raise RuntimeError(
                "Distillation has no bank: call `prepare(data, device)` before training."
            )
        v = self._bank.lookup(index)
        return F.normalize(v - self._bank.mean.to(v.device), dim=-1)
