"""Base class of contrastive objectives, and their result."""

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
    """Contrastive loss of a batch, with the tensors that it was computed from.

    Attributes:
        loss: L_con of each sample, ``(B,)``, with its graph.
        features: Feature map and embedding of the query's view, with their graph.
        z: z_q, ``(B, d)`` float32, L2-normalised, with its graph.
        key: z_k, ``(B, d)`` float32, L2-normalised, no gradient.
        contrast: L_con of other embeddings of the same views, ``(B, D) -> (B,)``, against the same keys.
        enqueued: What :meth:`ContrastiveObjective.after_backward` takes into the state, of all processes.
        logs: Scalars to log, by name.
    """

    loss: Tensor
    features: Features
    z: Tensor
    key: Tensor
    contrast: Callable[[Tensor], Tensor]
    enqueued: tuple[Tensor, ...] = ()
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class ContrastiveObjective(nn.Module, Configurable):
    """Contrastive loss over two views, with its state between steps (momentum encoder, key queue)."""

    @abstractmethod
    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Create parameters and buffers; called once, before the optimizer is created.

        Args:
            encoder: The encoder that will be trained.
            num_images: N, the number of training images.
        """

    @abstractmethod
    def forward(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> ContrastiveResult:
        """Loss of a batch; does not change the state.

        Args:
            encoder: The encoder that is trained.
            batch: ``views`` and ``index``.
            seed: Seed of the step, equal on all processes.
        """

    def needs_prefill(self) -> bool:
        """Whether it needs (more) batches before training begins."""
        return False

    def prefill_batch(self, batch: Mapping[str, Any], *, seed: int) -> None:  # optional
        """Take in a batch before training begins."""

    def after_backward(self, result: ContrastiveResult) -> None:  # optional
        """Called once for each micro-batch, after its backward pass."""

    def after_step(  # optional
        self, encoder: Encoder, *, progress: float, total_steps: int
    ) -> None:
        """Called once after each optimizer step.

        Args:
            encoder: The encoder, after the step.
            progress: Finished fraction of the training before the step, in [0, 1].
            total_steps: Number of optimizer steps of the run.
        """
