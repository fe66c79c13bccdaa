"""IADM as a loss plugin: a branch learns to predict the GradCAM of the input image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ppssl.functional import Reference, attend, image_gradcam, saliency_kl, saliency_target
from ppssl.losses.iadm.branch import SaliencyBranch
from ppssl.losses.iadm.callback import IADMCallback
from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.distributed import gather_equal
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.saved_state import keep_in_state_dict

if TYPE_CHECKING:
    from ppssl.encoder import EncoderInfo

__all__ = ["IADM"]

_MEMORY = 0.99
"""Decay of the running mean map in each step."""


class IADM(LossPlugin):
    """Image-Aided Distinction Module: ``L_IADM = mean KL(A* || A)``.

    A* is the GradCAM of the query's view itself, a distribution over cells (:func:`ppssl.functional.image_gradcam`,
    :func:`~ppssl.functional.saliency_target`); A is what a branch on the feature map predicts
    (:class:`~ppssl.losses.iadm.branch.SaliencyBranch`). The defaults did best on synthetic birds
    (experiments/RESULTS.md).

    Args:
        loss_weight: lambda_I.
        start: Fraction of the training after which lambda_I begins to rise (:ref:`D14 <d14>`).
        full: Fraction of the training from which lambda_I has its full value.
        source: Tensor that is attributed: the ``"image"``, or the last feature map, ``"output"`` (:ref:`D15 <d15>`,
            :ref:`F8 <f8>`). ``ppssl bench saliency`` measures the stages in between; training on them would need hooks
            in every step (:ref:`D17 <d17>`).
        reference: r (:ref:`D9 <d9>`); for the image only.
        order: Pool or rectify first (:ref:`D10 <d10>`).
        target: ell (:ref:`D11 <d11>`): the ``"similarity"`` of query and key, or the contrastive ``"loss"``.
        sharpen: Exponent gamma >= 1 (:ref:`D9 <d9>`).
        debias: Divide by the running mean map, the centre bias of the encoder (:ref:`D9 <d9>`).
        upscale: Cells per side for each place of the feature map (:ref:`D12 <d12>`).
        use: ``"regularise"``: the gradient of the KL reaches the encoder. ``"attend"``: features pooled with A enter a
            second contrastive term, and the KL trains the branch only. ``"both"`` (:ref:`D13 <d13>`).
        every: A* is computed, learned from and logged in every n-th optimizer step only; it costs one more backward
            pass to the image. With 4 no measured figure is worse than with 1.
        hidden: Channels of the branch.
    """

    watcher = IADMCallback

    def __init__(
        self,
        loss_weight: float = 1.0,
        *,
        start: float = 0.1,
        full: float = 0.3,
        source: Literal["image", "output"] = "image",
        reference: Reference = "blur",
        order: Literal["pool_relu", "relu_pool"] = "pool_relu",
        target: Literal["similarity", "loss"] = "loss",
        sharpen: float = 1.0,
        debias: bool = False,
        upscale: int = 1,
        use: Literal["regularise", "attend", "both"] = "regularise",
        every: int = 4,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        check_range(">= 0", loss_weight=loss_weight)
        check_range(">= 1", sharpen=sharpen, upscale=upscale, every=every, hidden=hidden)
        if not 0 <= start <= full <= 1:
            raise ArgumentError(
                f"`start` and `full` must be 0 <= start <= full <= 1, got {start}, {full}."
            )
        check_choice(("image", "output"), source=source)
        check_choice(get_args(Reference), reference=reference)
        check_choice(("pool_relu", "relu_pool"), order=order)
        check_choice(("similarity", "loss"), target=target)
        check_choice(("regularise", "attend", "both"), use=use)
        self.loss_weight = loss_weight
        self.start = start
        self.full = full
        self.source = source
        self.reference: Reference = reference
        self.order: Literal["pool_relu", "relu_pool"] = order
        self.target = target
        self.sharpen = sharpen
        self.debias = debias
        self.upscale = upscale
        self.use = use
        self.every = every
        self.hidden = hidden
        self.mean_map = torch.zeros(0, 0)
        keep_in_state_dict(self, "mean_map")

    def needs_image_gradient(self, progress: float, number: int) -> bool:
        """Whether A* is computed in this step, of the image."""
        return self.source == "image" and self._is_due(progress, number)

    def _is_due(self, progress: float, number: int) -> bool:
        """Whether A* is computed in this step: every n-th one in which lambda_I is above 0."""
        return (number + 1) % self.every == 0 and self.weight(progress) > 0  # loggers count from 1

    def build(self, encoder: EncoderInfo) -> None:
        """Create the branch.

        Raises:
            UserError: ``use`` or ``source`` does not go with the embedding of this encoder.
        """
        if self.source == "output" and not encoder.pools_map:
            raise UserError(
                "`source: output` asks for the gradient at the feature map, which the embedding of this encoder is not "
                "pooled from: choose `source: image`, or `global_pool: avg` in `backbone_kwargs` if it has that."
            )
        if self.use != "regularise" and encoder.dim != encoder.channels:
            raise UserError(
                f"`use: {self.use}` pools the feature map of {encoder.channels} channels in place of the embedding, "
                f"which has {encoder.dim} dimensions in this encoder: choose `use: regularise`."
            )
        self.branch = SaliencyBranch(encoder.channels, self.hidden, self.upscale)

    def weight(self, progress: float) -> float:
        """lambda_I: 0 until ``start``, then a linear rise until ``full`` (:ref:`D14 <d14>`)."""
        if progress >= self.full:
            return self.loss_weight
        return self.loss_weight * max(0.0, progress - self.start) / (self.full - self.start)

    def forward(self, step: TrainingStep) -> LossTerm:
        """KL(A* || A) of each image ``(B,)``, plus the second contrastive term if features are pooled with A."""
        regularises = self.use != "attend"
        log_map = self.branch(step.feature_map if regularises else step.feature_map.detach())
        term = self._learn(step, log_map)
        if self.use == "regularise":
            return term
        attended = step.contrast(attend(step.feature_map, log_map.detach().exp()))
        logs = {**term.logs, "loss_attended": attended.detach().mean()}
        return LossTerm(term.value + attended, logs, term.logged)

    def _learn(self, step: TrainingStep, log_map: Tensor) -> LossTerm:
        """KL(A* || A) of each image ``(B,)``; 0 in steps without A*."""
        if not self._is_due(step.progress, step.number):
            zero = 0 * log_map.mean(
                dim=(1, 2)
            )  # with its graph: DDP waits for the branch's gradients
            return LossTerm(zero, logged=False)
        target = self.saliency(step, (log_map.shape[1], log_map.shape[2]))
        kl = saliency_kl(target, log_map)
        return LossTerm(kl, self._logs(kl, target))

    def attention(self, feature_map: Tensor) -> Tensor:
        """Attention map A of the branch: ``(B, gh, gw)``, sums to 1.

        Raises:
            UserError: There is no branch yet.
        """
        if not hasattr(self, "branch"):
            raise UserError("IADM attends to nothing before it is trained: fit the model first.")
        return self.branch(feature_map).exp()

    def saliency(self, step: TrainingStep, grid: tuple[int, int]) -> Tensor:
        """Saliency target A* ``(B, gh, gw)`` of the query's view; no gradient."""
        positive = (step.z * step.key).sum(dim=1)  # float32 under autocast, unlike a matrix product
        ell = positive if self.target == "similarity" else step.contrastive_loss
        if self.source == "image":
            signed = image_gradcam(ell, step.image, self.reference, rectify=False)
        else:
            signed = image_gradcam(ell, step.feature_map, rectify=False)
        bias = self._bias(saliency_target(signed, grid, order=self.order)) if self.debias else None
        return saliency_target(signed, grid, order=self.order, sharpen=self.sharpen, bias=bias)

    def _bias(self, target: Tensor) -> Tensor:
        """Running mean map ``(gh, gw)`` before this step, which then updates it: no image depends on another.

        It begins uniform, anew if the grid changes with the size of the images.
        """
        before = self.mean_map.to(target)
        if before.shape != target.shape[1:]:
            before = torch.full_like(target[0], 1 / target[0].numel())
        if self.training:
            self.mean_map = before.lerp(gather_equal(target).mean(dim=0), 1 - _MEMORY)
        return before.clamp(min=0.01 / before.numel())

    def _logs(self, kl: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Relative entropy of A*, and the skill of the branch: ``1 - KL(A* || A) / KL(A* || uniform)``."""
        most = math.log(target[0].numel())
        entropy = torch.special.entr(target).sum(dim=(1, 2)).mean()
        skill = 1 - kl.detach().mean() / (most - entropy).clamp(min=1e-6)
        return {"entropy": entropy / most, "skill": skill}
