"""MoCo v3: InfoNCE of predicted queries against the momentum keys of the batch, in both directions, without a queue.

Chen, Xie and He, arXiv 2104.02057, algorithm 1.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ppssl.encoder import Encoder
from ppssl.losses.contrastive.heads import Head, HeadNorm
from ppssl.losses.contrastive.keys import check_negatives, gather_keys, info_nce_with_accuracy
from ppssl.losses.contrastive.symmetric import SymmetricObjective
from ppssl.utils.checks import check_range

__all__ = ["MoCoV3"]


class MoCoV3(SymmetricObjective):
    """MoCo v3: ``L_i = 2 tau (l(z, key') + l(z', key))`` with InfoNCE l, for ViTs and convolutional encoders.

    z and key are of one view, z' and key' of the other. Negatives are the keys of all other images of the batch, of all
    processes; an image that is in a batch twice is no negative of itself (DEVIATION). All layers of the heads have a
    norm, as in the paper's text. The position embeddings are those of the timm model, not fixed ones (DEVIATION).

    Args:
        dim: Length of z and key.
        hidden_dim: Width of the hidden layers of projection and prediction head.
        temperature: tau; the paper has 0.2 for ViTs and 1.0 for ResNet-50.
        momentum: Momentum of the key encoder in the first step, in [0, 1], from where it rises to 1; ``"auto"``: 0.99,
            or less in runs of fewer than 500 steps (:func:`~ppssl.losses.contrastive.momentum.automatic_momentum`).
        projection_layers: Layers of the projection head; the paper has 3 for ViTs, and its code 2 for ResNet-50.
        head_norm: Norm in the heads (:class:`~ppssl.losses.contrastive.heads.Head`).
        freeze_patch_projection: Do not train the layer that makes tokens of patches, for stability; encoders without
            one are trained as a whole.
    """

    momentum_of_paper = 0.99

    def __init__(
        self,
        dim: int = 256,
        *,
        hidden_dim: int = 4096,
        temperature: float = 0.2,
        momentum: float | Literal["auto"] = "auto",
        projection_layers: int = 3,
        head_norm: HeadNorm = "batch",
        freeze_patch_projection: bool = True,
    ) -> None:
        super().__init__(dim, hidden_dim, momentum, head_norm)
        check_range("> 0", temperature=temperature)
        check_range(">= 1", projection_layers=projection_layers)
        self.temperature = temperature
        self.projection_layers = projection_layers
        self.freeze_patch_projection = freeze_patch_projection

    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Create heads and copies, and freeze the patch projection."""
        super().build(encoder, num_images=num_images)
        if self.freeze_patch_projection:
            for layer in _patch_projections(encoder):
                layer.requires_grad_(False)

    def make_heads(self, width: int) -> tuple[Head, Head]:
        """Projection head of ``projection_layers``, prediction head of two."""
        hidden = [self.hidden_dim] * (self.projection_layers - 1)
        return (
            Head([width, *hidden, self.dim], self.head_norm, norm_output=True),
            Head([self.dim, self.hidden_dim, self.dim], self.head_norm, norm_output=True),
        )

    def everyone(self, keys: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The keys of all processes, in training mode; else of this one.

        Raises:
            UserError: The batch of all processes has one image.
        """
        if not self.training:  # all processes may look at the same images then
            return keys, index
        gathered, indices = gather_keys(torch.cat([keys[0], keys[1]], dim=1), index)
        check_negatives("MoCo v3", len(gathered))
        return gathered.unflatten(1, (2, -1)).transpose(0, 1), indices

    def direction(
        self, z: Tensor, key: Tensor, others: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``2 tau l(z, key)`` of each image, ``(B,)`` float32; the accuracy is logged."""
        tau = self.temperature
        loss, accuracy = info_nce_with_accuracy(z, key, others, temperature=tau, mask=mask)
        return 2 * tau * loss, {"contrastive_accuracy": accuracy}


def _patch_projections(encoder: nn.Module) -> list[nn.Module]:
    """Layers that project patches to tokens, by their name in timm's models."""
    return [m for name, m in encoder.named_modules() if name.endswith("patch_embed.proj")]
