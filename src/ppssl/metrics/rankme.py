"""RankMe (Garrido et al. 2023, arXiv:2210.02885, eq. 1): effective rank of a set of embeddings.

With the singular values ``sigma_k`` of the ``(N, D)`` matrix of embeddings, neither centred nor normalised::

    p_k = sigma_k / sum_j sigma_j          RankMe = exp(-sum_k p_k log p_k)       in [1, min(N, D)]

1: all embeddings lie on one line through the origin (collapse). D: all directions are used equally.
"""

from typing import Any

import torch
from torch import Tensor

from ppssl.metrics.retrieval import EmbeddingMetric, check_embeddings
from ppssl.utils.errors import ArgumentError

__all__ = ["RankMe", "rankme"]


@torch.no_grad()
def rankme(embeddings: Tensor) -> Tensor:
    """Compute the effective rank of ``(N, D)`` embeddings: a float64 scalar in [1, min(N, D)]; 0 if all are 0.

    The singular values are square roots of the eigenvalues of the float64 Gram matrix, which is ten times as fast as
    an SVD, with errors of at most about 1e-8 of the largest. DEVIATION: the paper adds 1e-7 to every p_k to avoid
    log 0; here 0 log 0 = 0.
    """
    check_embeddings(embeddings)
    if not embeddings.numel():
        raise ValueError(f"`embeddings` must not be empty, got {tuple(embeddings.shape)}.")
    if not embeddings.isfinite().all():
        raise ArgumentError("`embeddings` must be finite, got NaN or infinity.")
    x = embeddings.double()
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if sigma[-1] == 0:
        return sigma.new_zeros(())
    share = sigma / sigma.sum()
    return torch.special.entr(share).sum().exp()


class RankMe(EmbeddingMetric):
    """Metric RankMe over batches and processes: a float32 scalar, the effective rank of the embeddings of all images.

    Each image counts once, by its index. Labels are not used, so images without a label count too.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def update(self, embeddings: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch: ``(B, D)`` floating point, ``(B,)`` integers (not used), ``(B,)`` image numbers."""
        self._append(embeddings, labels, index)

    def compute(self) -> Tensor:
        """Return the effective rank of all embeddings."""
        return rankme(self._rows()[0]).float().to(self.device)
