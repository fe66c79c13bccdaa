"""RankMe (Garrido et al. 2023, arXiv:2210.02885, eq. 1): how many dimensions a set of embeddings really uses.

With the singular values ``sigma_k`` of the ``(N, D)`` matrix of embeddings, neither centred nor normalised::

    p_k = sigma_k / sum_j sigma_j          RankMe = exp(-sum_k p_k log p_k)       in [1, min(N, D)]

1: all embeddings lie on one line through the origin (collapse). D: every direction is used alike.
"""

from typing import Any

import torch
from torch import Tensor

from ppssl.metrics.retrieval import EmbeddingMetric, check_embeddings

__all__ = ["RankMe", "rankme"]


@torch.no_grad()
def rankme(embeddings: Tensor) -> Tensor:
    """Effective rank of ``(N, D)`` floating-point embeddings: a float64 scalar in [1, min(N, D)]; 0 if all are 0.

    The singular values are square roots of the float64 Gram matrix's eigenvalues: ten times as fast as an SVD, and
    off by at most about 1e-8 of the largest. DEVIATION: the paper adds 1e-7 to every p_k against log 0; here
    0 log 0 = 0.
    """
    check_embeddings(embeddings)
    if not embeddings.numel():
        raise ValueError(f"`embeddings` must not be empty, got {tuple(embeddings.shape)}.")
    if not embeddings.isfinite().all():
        raise ValueError("`embeddings` must be finite, got NaN or infinity.")
    x = embeddings.double()
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if sigma[-1] == 0:
        return sigma.new_zeros(())
    share = sigma / sigma.sum()
    return torch.special.entr(share).sum().exp()


class RankMe(EmbeddingMetric):
    """RankMe of all images seen, each once, over batches and ranks; ``compute`` gives a float32 scalar.

    Labels play no part, so images without one count.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def update(self, embeddings: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch: ``(B, D)`` floating point, ``(B,)`` integers (not used), ``(B,)`` image numbers."""
        self._append(embeddings, labels, index)

    def compute(self) -> Tensor:
        """The effective rank of all embeddings."""
        return rankme(self._rows()[0]).float().to(self.device)
