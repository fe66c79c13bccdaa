"""MoCo v2: InfoNCE of a query against its momentum key and a queue of past keys.

He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297; :ref:`F7 <f7>`, :ref:`D1 <d1>` to :ref:`D3 <d3>`.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppssl import functional
from ppssl.encoder import Encoder
from ppssl.losses.contrastive.keys import gather_keys, info_nce_with_accuracy
from ppssl.losses.contrastive.momentum import automatic_momentum, update_keys
from ppssl.losses.contrastive.objective import ContrastiveObjective, ContrastiveResult
from ppssl.losses.contrastive.queue import KeyQueue
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.distributed import gather_equal, rank
from ppssl.utils.randomness import torch_seed

__all__ = ["MoCo"]

GROUP = 32
"""Images in a batch-norm group if the number of groups is automatic: the per-GPU batch size of MoCo."""


class MoCo(ContrastiveObjective):
    """MoCo v2: momentum encoder, key queue and InfoNCE.

    Further views are queries of the same key and queue.

    Args:
        dim: Length of the projection z.
        hidden_dim: Width of the projection head's hidden layer; ``None``: the embedding's.
        temperature: tau.
        queue_size: K; ``"auto"``: min(65,536, N / 2).
        prefill: Initial content of the queue: ``"keys"`` of training images, or ``"random"`` directions as in MoCo.
        momentum: Momentum of the key encoder, in [0, 1]; ``"auto"``: see
            :func:`~ppssl.losses.contrastive.momentum.automatic_momentum`.
        key_bn_groups: Number of groups per process in which the shuffled keys are batch-normalised, so that batch
            statistics do not reveal which key belongs to a query (:ref:`D2 <d2>`); ``"auto"``: groups of 32, at least
            two. Unused without batch norm, and with frozen batch norm.
    """

    def __init__(
        self,
        dim: int = 256,
        *,
        hidden_dim: int | None = None,
        temperature: float = 0.2,
        queue_size: int | Literal["auto"] = "auto",
        prefill: Literal["keys", "random"] = "keys",
        momentum: float | Literal["auto"] = "auto",
        key_bn_groups: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        check_range("> 0", temperature=temperature)
        check_range(">= 1", dim=dim, hidden_dim=hidden_dim)
        if momentum != "auto":
            check_range("in [0, 1]", momentum=momentum)
        if queue_size != "auto":
            check_range(">= 1", queue_size=queue_size)
        if key_bn_groups != "auto":
            check_range(">= 1", key_bn_groups=key_bn_groups)
        check_choice(("keys", "random"), prefill=prefill)
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.temperature = temperature
        self.queue_size = queue_size
        self.prefill = prefill
        self.momentum = momentum
        self.key_bn_groups = key_bn_groups

    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Create the projection head, the momentum copies and the queue."""
        width = encoder.info.dim
        hidden = width if self.hidden_dim is None else self.hidden_dim
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, self.dim)
        )
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        size = (
            max(1, min(65_536, num_images // 2)) if self.queue_size == "auto" else self.queue_size
        )
        self.queue = KeyQueue(size, self.dim)
        if self.prefill == "random":
            self.queue.fill_at_random(torch.Generator().manual_seed(torch_seed(0, "queue")))

    def forward(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> ContrastiveResult:
        """InfoNCE with view 0 as query and view 1 as key; queue entries of the query's image are masked."""
        query_view, key_view = batch["views"]
        features = encoder.features(query_view)
        z = self._normalised(features.embedding)
        key, *enqueued = self.keys(key_view, batch["index"], seed=seed)
        negatives, mask = self.queue.negatives(batch["index"])
        loss, accuracy = info_nce_with_accuracy(
            z, key, negatives, temperature=self.temperature, mask=mask
        )

        def contrast(embedding: Tensor) -> Tensor:
            query = self._normalised(embedding)
            return functional.info_nce(
                query, key, negatives, temperature=self.temperature, mask=mask
            )

        logs = {"contrastive_accuracy": accuracy}
        return ContrastiveResult(
            loss, features, z, key, contrast, tuple(enqueued), logs, further=contrast
        )

    @torch.no_grad()
    def keys(self, images: Tensor, index: Tensor, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys of the images of this process, and of all processes.

        With batch norm the images of all processes are shuffled and each process encodes a part of them in groups
        (shuffle-BN), so that a key and its query do not share batch statistics. One process does the same alone.

        Args:
            images: ``(B, 3, H, W)``, normalised; the same B on all processes.
            index: ``(B,)`` int64, the numbers of the images.
            seed: Seed of the step, equal on all processes.

        Returns:
            Keys ``(B, d)`` of this process; keys ``(W * B, d)`` and indices ``(W * B,)`` of all W processes, in rank
            order. Keys are float32 and L2-normalised. Two collectives with batch norm, one without.
        """
        size = len(images)
        mine = slice(rank() * size, (rank() + 1) * size)
        if not self.key_encoder.uses_batch_statistics:
            keys, indices = gather_keys(self._project(images), index)
            return keys[mine], keys, indices
        everyone = gather_equal(images)
        generator = torch.Generator(images.device).manual_seed(torch_seed(seed, "shuffle"))
        order = torch.randperm(len(everyone), generator=generator, device=images.device)
        groups = everyone[order[mine]].tensor_split(self._groups(size))
        shuffled, indices = gather_keys(torch.cat([self._project(g) for g in groups]), index)
        keys = shuffled[order.argsort()]
        return keys[mine], keys, indices

    def prefill_batch(self, batch: Mapping[str, Any], *, seed: int) -> None:
        """Enqueue the keys of a batch."""
        self.queue.enqueue(*self.keys(batch["views"][1], batch["index"], seed=seed)[1:])

    def needs_prefill(self) -> bool:
        """Whether the queue is not full yet."""
        return not self.queue.is_full()

    def after_backward(self, result: ContrastiveResult) -> None:
        """Enqueue the keys of all processes in rank order; they are no negatives of their own batch."""
        self.queue.enqueue(*result.enqueued)

    def after_step(self, encoder: Encoder, *, progress: float, total_steps: int) -> None:
        """Momentum update of key encoder and key head."""
        momentum = automatic_momentum(total_steps) if self.momentum == "auto" else self.momentum
        update_keys(((self.key_encoder, encoder), (self.key_head, self.head)), momentum)

    def _groups(self, batch_size: int) -> int:
        groups = max(2, batch_size // GROUP) if self.key_bn_groups == "auto" else self.key_bn_groups
        return min(groups, max(1, batch_size // 2))  # batch norm needs two images a group

    def _normalised(self, embedding: Tensor) -> Tensor:
        return F.normalize(self.head(embedding).float(), dim=1)

    def _project(self, images: Tensor) -> Tensor:
        return F.normalize(self.key_head(self.key_encoder(images)).float(), dim=1)
