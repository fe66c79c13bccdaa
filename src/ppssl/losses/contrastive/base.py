"""What a contrastive objective is to :class:`ppssl.PPSSL`."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ppssl.encoder import Encoder, Features
from ppssl.utils.config import Configurable

__all__ = ["ContrastiveObjective", "ContrastiveResult"]


@dataclass(frozen=True)
class ContrastiveResult:
    """One batch's contrastive loss and what it was made of.

    Attributes:
        loss: L_con of each sample, ``(B,)``, with its graph.
        features: Feature map and embedding of the query's view, with their graph.
        z: z_q, ``(B, d)`` float32, L2-normalised, with its graph.
        key: z_k, ``(B, d)`` float32, L2-normalised, no gradient.
        contrast: L_con of other embeddings of the same views, ``(B, D) -> (B,)``, against the same keys.
        logs: Scalars to log, by name.
    """

    loss: Tensor
    features: Features
    z: Tensor
    key: Tensor
    contrast: Callable[[Tensor], Tensor]
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class ContrastiveObjective(nn.Module, Configurable):
    """A contrastive loss over two views, with whatever it remembers from step to step."""

    @abstractmethod
    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Make parameters and buffers. Called once, before the optimizer is made.

        Args:
            encoder: The encoder that will be trained.
            num_images: N, how many training images there are.
        """

    @abstractmethod
    def forward(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> ContrastiveResult:
        """The loss of a batch; changes nothing that is remembered.

        Args:
            encoder: The encoder that is trained.
            batch: ``views`` and ``index``.
            seed: For the step's own randomness, equal on all processes.
        """

    def needs_prefill(self) -> bool:
        """Whether it wants to see (more) batches before training begins."""
        return False

    def prefill_batch(self, batch: Mapping[str, Any], *, seed: int) -> None:  # optional
        """Remember a batch before training begins."""

    def after_loss(self, batch: Mapping[str, Any], result: ContrastiveResult) -> None:  # optional
        """Called once a micro-batch, when all losses are computed."""

    def after_step(self, encoder: Encoder, *, total_steps: int) -> None:  # optional
        """Called once an optimizer step."""
