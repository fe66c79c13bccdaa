"""Linear probe of the literature: a linear classifier on a frozen encoder, trained by SGD on augmented images.

The linear probe of :func:`ppssl.evaluate` is another one: logistic regression on fixed embeddings
(:mod:`ppssl.evaluation.logistic_regression_probe`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ppssl.classify.base import Classifier
from ppssl.data.labelled_augmentation import LabelledAugmentation
from ppssl.utils.checks import check_range
from ppssl.utils.errors import ArgumentError

__all__ = ["LinearProbe"]


class LinearProbe(Classifier):
    """Classifier that trains only a linear layer, on the embeddings of a frozen encoder in evaluation mode.

    The defaults are those of LCR and MoCo (:ref:`F9 <f9>`), for some hundred steps and more: SGD with learning rate 30
    for batches of 256, times 0.1 after 60 % and 80 % of the steps, no weight decay, crops and horizontal flip.

    Args:
        backbone: Any timm model name, ``resnet_small``, or a module as for :class:`ppssl.PPSSL`; ``None``: the backbone
            of the checkpoint ``pretrained``.
        lr: The learning rate.
        sgd_momentum: Momentum of SGD.
        weight_decay: Weight decay.
        milestones: Fractions of the steps, in (0, 1), after which the learning rate is multiplied by 0.1.
        kwargs: Arguments of :class:`Classifier`.
    """

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        lr: float = 30.0,
        sgd_momentum: float = 0.9,
        weight_decay: float = 0.0,
        milestones: tuple[float, ...] = (0.6, 0.8),
        **kwargs: Any,
    ) -> None:
        check_range("> 0", lr=lr)
        check_range(">= 0", weight_decay=weight_decay)
        check_range("in [0, 1)", sgd_momentum=sgd_momentum)
        if not all(0 < part < 1 for part in milestones):
            raise ArgumentError(f"`milestones` must be in (0, 1), got {milestones}.")
        super().__init__(backbone, **kwargs)
        self.lr = lr
        self.sgd_momentum = sgd_momentum
        self.weight_decay = weight_decay
        self.milestones = milestones
        self.encoder.requires_grad_(False)
        self._last_loss: Tensor | None = None

    def default_augmentation(self) -> LabelledAugmentation:
        """Return the augmentation of ImageNet training: random crops and horizontal flip."""
        return LabelledAugmentation(crop_scale=(0.08, 1.0), rand_augment_ops=0)

    def training_loss(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Compute the cross-entropy; no gradient reaches the encoder."""
        loss = self.loss(self.head(self.frozen_embedding(batch["image"])), batch["label"])
        self._last_loss = loss.detach()
        return loss

    def on_train_end(self) -> None:
        """Warn if the last loss is twice that of a guess or more: the learning rate is made for many steps."""
        guess = math.log(len(self.classes)) * float(self.class_weight.mean())
        if self._last_loss is not None and float(self._last_loss) > 2 * guess:
            rank_zero_warn(
                f"The linear layer has not converged: its last loss is {float(self._last_loss):.3g}, and a guess has "
                f"{guess:.3g}. Train for more epochs, or with a lower `lr` than {self.lr:g}; the linear probe of "
                "`ppssl.evaluate` needs neither."
            )

    def configure_optimizers(self) -> Any:
        """Create SGD for the linear layer, with a learning rate that decreases in steps."""
        optimizer = SGD(
            self.head.parameters(),
            lr=self.lr,
            momentum=self.sgd_momentum,
            weight_decay=self.weight_decay,
        )
        self._announce(self.lr)
        ends = tuple(round(part * self._total_steps) for part in self.milestones)
        schedule = LambdaLR(optimizer, partial(_factor, ends=ends))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _factor(step: int, *, ends: tuple[int, ...]) -> float:
    return 0.1 ** sum(step >= end for end in ends)
