"""BYOL: prediction of a momentum encoder's projection of the other view, without negatives.

Grill et al., arXiv 2006.07733, eq. 2.
"""

from typing import Literal

from torch import Tensor

from ppssl.losses.contrastive.heads import Head, HeadNorm
from ppssl.losses.contrastive.symmetric import SymmetricObjective

__all__ = ["BYOL"]


class BYOL(SymmetricObjective):
    """BYOL: ``L_i = (2 - 2 z . key') + (2 - 2 z' . key)``, z and key of one view, z' and key' of the other.

    There are no negatives: what keeps all embeddings from becoming the same is the prediction head and that the
    momentum encoder has no gradient. No sample depends on another but by batch norm, and processes exchange nothing.

    Args:
        dim: Length of the projection.
        hidden_dim: Width of the hidden layer of projection and prediction head.
        momentum: Momentum of the target encoder in the first step, in [0, 1], from where it rises to 1; ``"auto"``:
            0.996, or less in runs of fewer than 1,250 steps
            (:func:`~ppssl.losses.contrastive.momentum.automatic_momentum`).
        head_norm: Norm in the heads (:class:`~ppssl.losses.contrastive.heads.Head`).
    """

    momentum_of_paper = 0.996

    def __init__(
        self,
        dim: int = 256,
        *,
        hidden_dim: int = 4096,
        momentum: float | Literal["auto"] = "auto",
        head_norm: HeadNorm = "batch",
    ) -> None:
        super().__init__(dim, hidden_dim, momentum, head_norm)

    def make_heads(self, width: int) -> tuple[Head, Head]:
        """Two layers each."""
        return (
            Head([width, self.hidden_dim, self.dim], self.head_norm),
            Head([self.dim, self.hidden_dim, self.dim], self.head_norm),
        )

    def everyone(self, keys: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The keys of this process; none of them is a negative."""
        return keys, index

    def direction(
        self, z: Tensor, key: Tensor, others: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``2 - 2 z . key`` of each image, ``(B,)`` float32; the mean cosine is logged."""
        cosine = (z * key).sum(dim=1)  # float32 under autocast, unlike a matrix product
        return 2 - 2 * cosine, {"contrastive_similarity": cosine.detach().mean()}
