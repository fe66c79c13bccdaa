"""SimCLR: each view of an image against its other view and all views of the other images of the batch.

Chen et al., arXiv 2002.05709, eq. 1 (NT-Xent).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from ppssl import functional
from ppssl.encoder import Encoder
from ppssl.losses.contrastive.heads import Head, HeadNorm
from ppssl.losses.contrastive.keys import check_negatives, gather_keys, info_nce_with_accuracy
from ppssl.losses.contrastive.objective import ContrastiveObjective, ContrastiveResult
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.distributed import rank

__all__ = ["SimCLR"]


class SimCLR(ContrastiveObjective):
    """SimCLR: InfoNCE in both directions, with the views of all other images of the batch as negatives.

    ``L_i = (l(z_i, z'_i) + l(z'_i, z_i)) / 2`` with InfoNCE l; the negatives of both terms are the z and z' of all
    other images, of all processes, with their gradient. There is no momentum encoder and no queue; the loss needs large
    batches. A further view is a query of z and of z', with the same negatives, all without a gradient.
    DEVIATION: an image that is in a batch twice is no negative of itself.

    Args:
        dim: Length of the projection z.
        hidden_dim: Width of the projection head's hidden layer; ``None``: the embedding's.
        temperature: tau.
        head_norm: Norm in the head (:class:`~ppssl.losses.contrastive.heads.Head`).
    """

    def __init__(
        self,
        dim: int = 128,
        *,
        hidden_dim: int | None = None,
        temperature: float = 0.1,
        head_norm: HeadNorm = "batch",
    ) -> None:
        super().__init__()
        check_range(">= 1", dim=dim, hidden_dim=hidden_dim)
        check_range("> 0", temperature=temperature)
        check_choice(get_args(HeadNorm), head_norm=head_norm)
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.temperature = temperature
        self.head_norm: HeadNorm = head_norm

    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Create the projection head."""
        width = encoder.info.dim
        hidden = width if self.hidden_dim is None else self.hidden_dim
        self.head = Head([width, hidden, self.dim], self.head_norm, norm_output=True)

    def forward(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> ContrastiveResult:
        """NT-Xent of the two views; the images of other processes are part of the batch in training mode.

        Raises:
            UserError: The batch of all processes has one image.
        """
        first, second = batch["views"]
        features = encoder.features(first)
        own = torch.stack([self.head.unit(features.embedding), self.head.unit(encoder(second))])
        z, index = self._everyone(own, batch["index"])  # (2, N, d)
        negatives, mask = z.flatten(0, 1), index[:, None] == index.repeat(2)  # (2 N, d), (N, 2 N)
        direction = partial(
            info_nce_with_accuracy, negatives=negatives, temperature=self.temperature, mask=mask
        )
        of_first, accuracy = direction(z[0], z[1])
        of_second, _ = direction(z[1], z[0])
        loss = _own_part((of_first + of_second) / 2, len(first))
        targets, constants = own.detach(), negatives.detach()
        own_mask = mask[_own_rows(len(first), len(mask))]

        def half(query: Tensor, target: Tensor) -> Tensor:
            tau = self.temperature
            return functional.info_nce(query, target, constants, temperature=tau, mask=own_mask) / 2

        def contrast(embedding: Tensor) -> Tensor:
            with self.head.keep_statistics() as head:
                query = head.unit(embedding)
            return half(query, targets[1])

        def further(embedding: Tensor) -> Tensor:
            query = self.head.unit(embedding)
            return half(query, targets[0]) + half(query, targets[1])

        logs = {"contrastive_accuracy": accuracy}
        return ContrastiveResult(
            loss, features, own[0], targets[1], contrast, logs=logs, further=further
        )

    def _everyone(self, own: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Projections ``(2, N, d)`` and indices ``(N,)`` of the images of all processes, with the graph of ``own``."""
        if not self.training:  # all processes may look at the same images then
            return own, index
        gathered, indices = gather_keys(own.transpose(0, 1).flatten(1), index)
        check_negatives("SimCLR", len(gathered))
        if len(gathered) == len(index):
            return own, index
        others = gathered.unflatten(1, (2, -1)).transpose(0, 1)  # (2, N, d), no gradient
        rows = _own_rows(len(index), len(gathered))
        return torch.cat([others[:, : rows.start], own, others[:, rows.stop :]], dim=1), indices


def _own_rows(size: int, total: int) -> slice:
    """Rows of this process's ``size`` images among the ``total`` images; all of them if nothing was gathered."""
    start = rank() * size if total > size else 0
    return slice(start, start + size)


def _own_part(losses: Tensor, size: int) -> Tensor:
    """Losses ``(B,)`` of this process of those of all images ``(N,)``; their mean has the gradient of all.

    The projections here are negatives of the images of other processes too. Each process computes those losses itself
    and adds their gradient, so that the mean over processes is that of one process with the whole batch, and no
    backward pass (there may be several: IADM) waits for other processes.
    """
    own = losses[_own_rows(size, len(losses))]
    if len(own) == len(losses):
        return own
    others = losses.sum() - own.sum()
    return own + (others - others.detach()) / size
