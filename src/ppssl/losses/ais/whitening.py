"""Whitening of the teacher's space by the covariance of a corpus (:ref:`D6 <d6>`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CorpusWhitening"]

_NULL = 1e-6
"""Eigenvalues below this fraction of the largest one are directions that no description has."""


@dataclass(frozen=True)
class CorpusWhitening:
    """``x -> normalise((x - mean) (C + r I)^(-1/2))``, with the covariance C of a corpus' text embeddings.

    What many descriptions have in common (that they speak of wings, or of brown) spans the largest directions of C and
    decides most of a similarity, but not what class an image is of. Whitened, all directions of the corpus count the
    same. Directions that no description has are dropped.

    Attributes:
        text_mean: Mean of the corpus' text embeddings, ``(e,)`` float32.
        image_mean: Mean of the image embeddings, ``(e,)`` float32.
        matrix: ``(C + r I)^(-1/2)``, ``(e, e)`` float32.
    """

    text_mean: Tensor
    image_mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, texts: Tensor, image_mean: Tensor, ridge: float) -> CorpusWhitening:
        """The whitening by the covariance of text embeddings.

        Args:
            texts: T, ``(M, e)``, L2-normalised.
            image_mean: Mean of the image embeddings, ``(e,)``, which is subtracted from them.
            ridge: r, as a fraction of the largest eigenvalue of C.
        """
        t = texts.detach().double().cpu()
        values, vectors = torch.linalg.eigh((t - t.mean(dim=0)).T.cov(correction=0))
        kept = values > _NULL * values[-1]
        scale = torch.where(kept, (values.clamp_min(0) + ridge * values[-1]).rsqrt(), 0)
        matrix = vectors * scale @ vectors.T
        return cls(t.mean(dim=0).float(), image_mean.float().cpu(), matrix.float())

    def to(self, device: torch.device) -> CorpusWhitening:
        """The same on a device."""
        return CorpusWhitening(*(value.to(device) for value in vars(self).values()))

    def texts(self, texts: Tensor) -> Tensor:
        """Whitened text embeddings, ``(M, e) -> (M, e)`` float32, L2-normalised."""
        return self._whiten(texts, self.text_mean)

    def images(self, images: Tensor) -> Tensor:
        """Whitened image embeddings, ``(..., e) -> (..., e)`` float32, L2-normalised; 0 stays 0."""
        return images.any(dim=-1, keepdim=True) * self._whiten(images, self.image_mean)

    def _whiten(self, x: Tensor, mean: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize((x.float() - mean) @ self.matrix, dim=-1)
