"""Training steps of other MoCo v2 implementations, which ours is timed against: lightly's example, and plain torch."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppssl.encoder import Encoder

__all__ = ["PEERS", "Peer"]

DIM = 256
QUEUE = 4096
MOMENTUM = 0.999
TEMPERATURE = 0.2


class Peer(nn.Module):
    """A MoCo v2 model whose ``forward(query, key)`` gives the loss of two views ``(B, 3, H, W)``, a scalar.

    Args:
        backbone: A timm model name, or ``resnet_small``.
        queue_size: Number of keys in the queue.
        image_size: Height and width of the views in pixels, for models built for one size (ViT).
    """

    encoder: Any  # timm's models share an interface, not a type

    def __init__(
        self, backbone: str, queue_size: int = QUEUE, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.queue_size = queue_size
        model = Encoder(backbone, image_size=image_size).model
        self.encoder = model.to(memory_format=torch.contiguous_format)
        self.head = self.make_head(self.encoder.num_features)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)

    def make_head(self, width: int) -> nn.Module:
        """The projection head of embeddings of a width."""
        raise NotImplementedError


class LightlyMoCo(Peer):
    """lightly's MoCo example: ``NTXentLoss`` with a memory bank, batch shuffle, momentum update in each step."""

    def __init__(
        self, backbone: str, queue_size: int = QUEUE, image_size: int | None = None
    ) -> None:
        from lightly.loss import NTXentLoss

        super().__init__(backbone, queue_size, image_size)
        self.loss = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(queue_size, DIM))

    def make_head(self, width: int) -> nn.Module:
        """Lightly's head."""
        from lightly.models.modules import MoCoProjectionHead

        return MoCoProjectionHead(width, width, DIM)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """The loss, after the momentum update."""
        from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

        update_momentum(self.encoder, self.key_encoder, m=MOMENTUM)
        update_momentum(self.head, self.key_head, m=MOMENTUM)
        z = self.head(self.encoder(query))
        with torch.no_grad():
            shuffled, order = batch_shuffle(key)
            keys = batch_unshuffle(self.key_head(self.key_encoder(shuffled)), order)
        return self.loss(z, keys)


class TorchMoCo(Peer):
    """MoCo v2 in plain torch, as the original code and LCR have it: a loop over parameters, a queue ``(D, K)``."""

    queue: Tensor
    pointer: Tensor

    def __init__(
        self, backbone: str, queue_size: int = QUEUE, image_size: int | None = None
    ) -> None:
        super().__init__(backbone, queue_size, image_size)
        self.register_buffer("queue", F.normalize(torch.randn(DIM, queue_size), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def make_head(self, width: int) -> nn.Module:
        """A head of two layers."""
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, DIM))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """The loss; the keys are enqueued before it returns."""
        z = F.normalize(self.head(self.encoder(query)), dim=1)
        with torch.no_grad():
            pairs = ((self.encoder, self.key_encoder), (self.head, self.key_head))
            for module, key_module in pairs:
                for p, k in zip(module.parameters(), key_module.parameters(), strict=True):
                    k.mul_(MOMENTUM).add_(p, alpha=1 - MOMENTUM)
            order = torch.randperm(len(key), device=key.device)
            keys = F.normalize(self.key_head(self.key_encoder(key[order])), dim=1)
            keys = keys[order.argsort()]
        positive = torch.einsum("bd,bd->b", z, keys)[:, None]
        negative = torch.einsum("bd,dk->bk", z, self.queue.clone().detach())
        logits = torch.cat([positive, negative], dim=1) / TEMPERATURE
        loss = F.cross_entropy(logits, torch.zeros(len(z), dtype=torch.long, device=z.device))
        self._enqueue(keys)
        return loss

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        pointer = int(self.pointer)
        self.queue[:, pointer : pointer + len(keys)] = keys.T
        self.pointer[0] = (pointer + len(keys)) % self.queue_size


PEERS: dict[str, Callable[..., Peer]] = {"lightly": LightlyMoCo, "torch": TorchMoCo}
"""Peers by name. ``lightly`` needs the package of that name."""
