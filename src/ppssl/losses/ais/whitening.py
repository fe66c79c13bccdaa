"""Whitening of the teacher's space by the covariance of a corpus (:ref:`D6 <d6>`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CorpusWhitening"]

_NULL = 1e-6
"""Eigenvalues below this fraction of the largest one are directions that no description has."""


class CorpusWhitening(nn.Module):
    """``x -> normalise((x - mean) (C + r I)^(-1/2))``, with the covariance C of a corpus' text embeddings.

    What many descriptions have in common (that they speak of wings, or of brown) spans the largest directions of C and
    decides most of a similarity, but not what class an image is of. Whitened, all directions of the corpus count the
    same. Directions that no description has are dropped.

    Args:
        dim: e, the length of the embeddings.
    """

    text_mean: Tensor
    image_mean: Tensor
    matrix: Tensor
    equal_buffers = True  # every process has the same corpus

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("text_mean", torch.zeros(dim))
        self.register_buffer("image_mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    @torch.no_grad()
    def fit(self, texts: Tensor, image_mean: Tensor, ridge: float) -> CorpusWhitening:
        """Take over the covariance of text embeddings ``(M, e)``; returns itself.

        Args:
            texts: T, ``(M, e)``, L2-normalised.
            image_mean: Mean of the image embeddings, ``(e,)``, which is subtracted from them.
            ridge: r, as a fraction of the largest eigenvalue of C.
        """
        t = texts.detach().double().cpu()
        values, vectors = torch.linalg.eigh((t - t.mean(dim=0)).T.cov(correction=0))
        kept = values > _NULL * values[-1]
        scale = torch.where(kept, (values.clamp_min(0) + ridge * values[-1]).rsqrt(), 0)
        self.text_mean.copy_(t.mean(dim=0))
        self.image_mean.copy_(image_mean)
        self.matrix.copy_(vectors * scale @ vectors.T)
        return self

    def texts(self, texts: Tensor) -> Tensor:
        """Whitened text embeddings, ``(M, e) -> (M, e)`` float32, L2-normalised."""
        return self._whiten(texts, self.text_mean)

    def images(self, images: Tensor) -> Tensor:
        """Whitened image embeddings, ``(..., e) -> (..., e)`` float32, L2-normalised; 0 stays 0."""
        return images.any(dim=-1, keepdim=True) * self._whiten(images, self.image_mean)

    def _whiten(self, x: Tensor, mean: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize((x.float() - mean.float()) @ self.matrix.float(), dim=-1)
