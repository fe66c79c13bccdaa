"""Base class of BYOL and MoCo v3: a prediction of each view's key, by a momentum encoder, from the other view."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ppssl.encoder import Encoder
from ppssl.losses.contrastive.heads import Head, HeadNorm
from ppssl.losses.contrastive.momentum import automatic_momentum, rising_momentum, update_keys
from ppssl.losses.contrastive.objective import ContrastiveObjective, ContrastiveResult
from ppssl.utils.checks import check_choice, check_range

__all__ = ["SymmetricObjective"]


class SymmetricObjective(ContrastiveObjective):
    """Each view is the query once and the key once: ``L = L(z_0, key_1) + L(z_1, key_0)``, by number of the view.

    A further view v is a query of both keys: ``L(z_v, key_0) + L(z_v, key_1)``.

    ``z = predictor(head(encoder(x)))`` and ``key = key_head(key_encoder(x))``, both L2-normalised; key encoder and key
    head are momentum copies without gradient. Subclasses make the heads and implement the loss of one direction.

    Args:
        dim: Length of z and key.
        hidden_dim: Width of the hidden layers of both heads.
        momentum: Momentum of the key encoder in the first step, in [0, 1], from where it rises to 1 along half a
            cosine; ``"auto"``: that of the paper, or in short runs
            :func:`~ppssl.losses.contrastive.momentum.automatic_momentum`.
        head_norm: Norm in the heads (:class:`~ppssl.losses.contrastive.heads.Head`).
    """

    momentum_of_paper: ClassVar[float]
    head: Head
    predictor: Head

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        momentum: float | Literal["auto"],
        head_norm: HeadNorm,
    ) -> None:
        super().__init__()
        check_range(">= 1", dim=dim, hidden_dim=hidden_dim)
        if momentum != "auto":
            check_range("in [0, 1]", momentum=momentum)
        check_choice(get_args(HeadNorm), head_norm=head_norm)
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.momentum = momentum
        self.head_norm: HeadNorm = head_norm

    @abstractmethod
    def make_heads(self, width: int) -> tuple[Head, Head]:
        """Projection head of embeddings of a width, and prediction head."""

    @abstractmethod
    def everyone(self, keys: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Keys ``(2, N, d)`` that a query is compared with beside its own, and the images ``(N,)`` that they are of.

        Args:
            keys: Keys of view 0 and view 1, ``(2, B, d)`` float32, no gradient.
            index: ``(B,)`` int64.
        """

    @abstractmethod
    def direction(
        self, z: Tensor, key: Tensor, others: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one direction, and what is logged of it.

        Args:
            z: ``(B, d)`` float32, L2-normalised.
            key: ``(B, d)``, likewise, no gradient.
            others: Keys of the view of ``key``, ``(N, d)``.
            mask: ``(B, N)`` bool, True where a key is of the query's own image.
        """

    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Create the heads and the momentum copies."""
        self.head, self.predictor = self.make_heads(encoder.info.dim)
        self.key_encoder: nn.Module = copy.deepcopy(encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)

    def forward(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> ContrastiveResult:
        """Loss of both directions; feature map, embedding and z of the result are those of view 0."""
        first, second = batch["views"]
        features = encoder.features(first)
        z = self._predict(features.embedding), self._predict(encoder(second))
        keys = torch.stack([self._key(first), self._key(second)])
        others, index = self.everyone(keys, batch["index"])
        mask = batch["index"][:, None] == index  # (B, N)
        of_first, logs = self.direction(z[0], keys[1], others[1], mask)
        of_second, _ = self.direction(z[1], keys[0], others[0], mask)

        def contrast(embedding: Tensor) -> Tensor:
            with self.head.keep_statistics(), self.predictor.keep_statistics():
                query = self._predict(embedding)
            return self.direction(query, keys[1], others[1], mask)[0]

        def further(embedding: Tensor) -> Tensor:
            query = self._predict(embedding)
            of_both = [self.direction(query, keys[v], others[v], mask)[0] for v in (0, 1)]
            return of_both[0] + of_both[1]

        loss = of_first + of_second
        return ContrastiveResult(
            loss, features, z[0], keys[1], contrast, logs=logs, further=further
        )

    def after_step(self, encoder: Encoder, *, progress: float, total_steps: int) -> None:
        """Momentum update of key encoder and key head."""
        usual = min(self.momentum_of_paper, automatic_momentum(total_steps))
        start = usual if self.momentum == "auto" else self.momentum
        pairs = ((self.key_encoder, encoder), (self.key_head, self.head))
        update_keys(pairs, rising_momentum(start, progress))

    def _predict(self, embedding: Tensor) -> Tensor:
        return self.predictor.unit(self.head(embedding))

    @torch.no_grad()
    def _key(self, images: Tensor) -> Tensor:
        return self.key_head.unit(self.key_encoder(images.detach()))
