"""Fine-tuning of an encoder with a linear classifier: layer-wise learning rate decay, mixup, cutmix.

The learning rate decreases with the distance from the output (Clark et al., arXiv 2003.10555; BEiT, arXiv 2106.08254).
Its parameter groups, mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) are timm's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from timm.data import Mixup
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.optim import Optimizer

from ppssl.classify.averaging import MovingAverage
from ppssl.classify.base import Classifier
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.errors import UserError
from ppssl.utils.optim import OptimizerName, optimizer_and_schedule
from ppssl.utils.randomness import generator, resolve_seed

__all__ = ["FineTune", "layer_decay_groups"]

_HEAD = "ppssl_head"


class FineTune(Classifier):
    """Classifier that fine-tunes the encoder: any timm model, or the encoder of a ppssl checkpoint.

    The default augmentation is random crops, horizontal flip and RandAugment.

    Args:
        backbone: Any timm model name, ``resnet_small``, or a module as for :class:`ppssl.PPSSL`; ``None``: the backbone
            of the checkpoint ``pretrained``.
        label_smoothing: Fraction of each target that is spread evenly over all classes, in [0, 1).
        mixup: Alpha of mixup, >= 0; 0: no mixup. With cutmix too, each batch uses one of the two.
        cutmix: Alpha of cutmix, >= 0; 0: no cutmix.
        optimizer: ``"sgd"``, ``"adamw"`` or ``"lars"`` (for large batches).
        lr: The learning rate of the linear layer.
        layer_decay: Learning rate of each layer as a fraction of the next layer's, in (0, 1]; 1: no decay.
        weight_decay: Weight decay of matrices and kernels; norms, biases and position embeddings have none.
        sgd_momentum: Momentum of SGD and LARS.
        warmup_fraction: Fraction of the steps with linear warm-up, before the cosine decay of the learning rate.
        freeze_epochs: Number of first epochs that train the linear layer only, with the encoder in evaluation mode.
        ema_decay: Decay of the exponential moving average of the weights, which is validated and saved; ``None``: no
            averaging.
        compile_encoder: Compile the encoder in training steps (``torch.compile``), see :class:`ppssl.PPSSL`.
        kwargs: Arguments of :class:`Classifier`.
    """

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-3,
        layer_decay: float = 0.75,
        weight_decay: float = 0.05,
        sgd_momentum: float = 0.9,
        warmup_fraction: float = 0.1,
        freeze_epochs: int = 0,
        ema_decay: float | None = None,
        compile_encoder: bool = False,
        **kwargs: Any,
    ) -> None:
        check_choice(get_args(OptimizerName), optimizer=optimizer)
        check_range(">= 0", mixup=mixup, cutmix=cutmix, freeze_epochs=freeze_epochs)
        check_range(">= 0", weight_decay=weight_decay)
        check_range("> 0", lr=lr)
        check_range("in (0, 1]", layer_decay=layer_decay)
        check_range("in [0, 1)", warmup_fraction=warmup_fraction, sgd_momentum=sgd_momentum)
        check_range("in (0, 1)", ema_decay=ema_decay)
        super().__init__(backbone, label_smoothing=label_smoothing, **kwargs)
        self.mixup = mixup
        self.cutmix = cutmix
        self.optimizer = optimizer
        self.lr = lr
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.sgd_momentum = sgd_momentum
        self.warmup_fraction = warmup_fraction
        self.freeze_epochs = freeze_epochs
        self.ema_decay = ema_decay
        self.compile_encoder = self.encoder.compiled = compile_encoder

    def setup(self, stage: str) -> None:
        """Set up as :class:`Classifier`, and check the batch size for mixup and cutmix."""
        super().setup(stage)
        batch_size = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]  # there is one by now
        if stage == "fit" and (self.mixup or self.cutmix) and batch_size % 2:
            raise UserError(
                f"`mixup` and `cutmix` need an even `batch_size`, got {batch_size}: they mix pairs of images."
            )

    def configure_callbacks(self) -> list[Callback]:
        """Return the monitors, and in training the moving average of the weights if ``ema_decay`` is set."""
        callbacks = super().configure_callbacks()
        if self.ema_decay is not None and self.trainer.state.fn == "fit":
            callbacks.append(MovingAverage(self.ema_decay))
        return callbacks

    @property
    def frozen(self) -> bool:
        """Whether this epoch trains the linear layer only."""
        return self.current_epoch < self.freeze_epochs

    def training_loss(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Compute the cross-entropy with label smoothing, mixup and cutmix."""
        images, target = self.mix(batch["image"], batch["label"], batch_idx)
        if not self.frozen:
            return self.loss(self(images), target)
        # DDP needs a gradient of every parameter: zeros here, removed before the optimizer step.
        zero = 0.0 * sum(p.sum() for p in self.encoder.parameters() if p.requires_grad)
        return self.loss(self.head(self.frozen_embedding(images)), target) + zero

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Remove the gradients of a frozen encoder, so that momentum and weight decay do not change it."""
        if self.frozen:
            for parameter in self.encoder.parameters():
                parameter.grad = None

    def mix(self, images: Tensor, label: Tensor, batch_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Apply mixup or cutmix of a batch with itself in reverse order, as a function of seed, step and process.

        Args:
            images: ``(B, 3, H, W)``, B even.
            label: ``(B,)`` integer.
            batch_idx: Index of the micro-batch.

        Returns:
            The mixed images, and the smoothed targets ``(B, K)``; without mixup and cutmix the arguments themselves.
        """
        if not (self.mixup or self.cutmix):
            return images, label
        mixer = Mixup(
            self.mixup,
            self.cutmix,
            label_smoothing=self.label_smoothing,
            num_classes=len(self.classes),
        )
        rank = self.global_rank
        rng = generator(resolve_seed(self.seed), "mix", self.global_step, batch_idx, rank)
        with isolate_rng(include_cuda=False):  # timm draws from numpy's global generator
            np.random.seed(rng.integers(2**32))
            return mixer(images.clone(), label)

    def configure_optimizers(self) -> Any:
        """Create the optimizer with layer-wise learning rates, and the schedule: warm-up and cosine, by step."""
        groups = layer_decay_groups(
            self.encoder.model,
            self.head,
            lr=self.lr,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
        )
        self._announce(self.lr)
        return optimizer_and_schedule(self, groups, self.lr, self._total_steps)


def layer_decay_groups(
    model: nn.Module, head: nn.Module, *, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Create timm's parameter groups with layer-wise learning rates, for a model with ``head`` as its classifier.

    The head belongs to the last layer, with learning rate ``lr``; the layer n before it has ``lr * layer_decay ** n``.
    Biases, norms, and parameters that timm exempts (position embeddings) have no weight decay.
    """
    whole = copy.copy(model)
    whole._modules = {**model._modules, _HEAD: head}
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        whole, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    return [group | {"lr": lr * group["lr_scale"]} for group in groups]
