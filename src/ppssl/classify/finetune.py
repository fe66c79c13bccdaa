"""Fine-tuning: encoder and classifier trained on labels, each layer at its own rate.

The rate falls with the distance from the output (Clark et al., arXiv 2003.10555; BEiT, arXiv 2106.08254), by timm's
groups; mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) are timm's too.
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

from ppssl.classify.base import Classifier, ClassWeights
from ppssl.data.transforms import LabelledAugmentation
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.errors import UserError
from ppssl.utils.optim import OptimizerName, make_optimizer, warmup_cosine
from ppssl.utils.randomness import generator, resolve_seed

__all__ = ["FineTune", "layer_decay_groups"]

_HEAD = "ppssl_head"


class FineTune(Classifier):
    """Fine-tunes an encoder: any timm model, or the one of a ppssl checkpoint. See :class:`Classifier`.

    Args:
        backbone: Any timm model name, or ``resnet_small``; ``None``: that of the checkpoint ``pretrained``.
        pretrained: As of :class:`Classifier`.
        image_size: As of :class:`Classifier`.
        backbone_kwargs: As of :class:`Classifier`.
        num_classes: As of :class:`Classifier`.
        augmentation: Draws the training views; ``None``: crops, mirroring and RandAugment.
        label_smoothing: Part of each target spread evenly over all classes, in [0, 1).
        class_weights: As of :class:`Classifier`.
        mixup: Alpha of mixup, >= 0; 0: none. Where cutmix is on too, each batch has one of them.
        cutmix: Alpha of cutmix, >= 0; 0: none.
        optimizer: ``"sgd"``, ``"adamw"`` or ``"lars"`` (for large batches).
        lr: The learning rate of the linear layer.
        layer_decay: Each layer's rate is this part of the next one's, in (0, 1]; 1: all the same.
        weight_decay: For matrices and kernels; norms, biases and position embeddings have none.
        sgd_momentum: Momentum of SGD and LARS.
        warmup_fraction: Part of the steps in which the rate rises linearly; then it falls as a cosine.
        freeze_epochs: So many epochs train the linear layer alone: the encoder is as in evaluation.
        ema_decay: Validate and save the moving average of the weights, of this decay; ``None``: the weights themselves.
        init_seed: As of :class:`Classifier`.
        seed: As of :class:`Classifier`.
    """

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: bool | str = False,
        image_size: int | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        num_classes: int | None = None,
        augmentation: LabelledAugmentation | None = None,
        label_smoothing: float = 0.1,
        class_weights: ClassWeights = None,
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
        init_seed: int | None = None,
        seed: int | None = None,
    ) -> None:
        check_choice(get_args(OptimizerName), optimizer=optimizer)
        check_range(">= 0", mixup=mixup, cutmix=cutmix, freeze_epochs=freeze_epochs)
        check_range("> 0", lr=lr)
        check_range("in (0, 1]", layer_decay=layer_decay)
        check_range("in [0, 1)", warmup_fraction=warmup_fraction)
        check_range("in (0, 1)", ema_decay=ema_decay)
        super().__init__(
            backbone=backbone,
            pretrained=pretrained,
            image_size=image_size,
            backbone_kwargs=backbone_kwargs,
            num_classes=num_classes,
            augmentation=augmentation,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            init_seed=init_seed,
            seed=seed,
        )
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

    def setup(self, stage: str) -> None:
        """As of :class:`Classifier`; mixup needs pairs."""
        super().setup(stage)
        batch_size = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]  # there is one by now
        if stage == "fit" and (self.mixup or self.cutmix) and batch_size % 2:
            raise UserError(
                f"`mixup` and `cutmix` need an even `batch_size`, got {batch_size}: each image is mixed with another."
            )

    def configure_callbacks(self) -> list[Callback]:
        """The monitors, and the moving average of the weights where it is wanted and there is training."""
        from ppssl.classify.averaging import MovingAverage

        callbacks = super().configure_callbacks()
        if self.ema_decay is not None and self.trainer.state.fn == "fit":
            callbacks.append(MovingAverage(self.ema_decay))
        return callbacks

    @property
    def frozen(self) -> bool:
        """Whether the linear layer is trained alone, in this epoch."""
        return self.current_epoch < self.freeze_epochs

    def training_loss(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy of smoothed, and perhaps mixed, labels."""
        images, target = self.mix(batch["image"], batch["label"], batch_idx)
        if not self.frozen:
            return self.loss(self(images), target)
        # DDP waits for a gradient of every parameter: it gets zeros, and the optimizer none (see below).
        nothing = 0.0 * sum(p.sum() for p in self.encoder.parameters() if p.requires_grad)
        return self.loss(self.head(self.frozen_embedding(images)), target) + nothing

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """A frozen encoder is not touched: neither by momentum nor by weight decay."""
        if self.frozen:
            for parameter in self.encoder.parameters():
                parameter.grad = None

    def mix(self, images: Tensor, label: Tensor, batch_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix of a batch with itself in reverse order, as a function of seed, step and process.

        Args:
            images: ``(B, 3, H, W)``, B even.
            label: ``(B,)``.
            batch_idx: Of the micro-batch.

        Returns:
            Images, and the smoothed targets ``(B, K)``; both as they were where neither is on.
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
        """The optimizer with a rate for each layer, warm-up and cosine by step."""
        groups = layer_decay_groups(
            self.encoder.model,
            self.head,
            lr=self.lr,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
        )
        optimizer = make_optimizer(
            groups, self.optimizer, lr=self.lr, sgd_momentum=self.sgd_momentum
        )
        self._announce(self.lr)
        schedule = warmup_cosine(
            optimizer, warmup_fraction=self.warmup_fraction, steps=self._total_steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def layer_decay_groups(
    model: nn.Module, head: nn.Module, *, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups, by timm, of a model that had ``head`` as its own classifier, each with its learning rate.

    The head is in the last layer, of rate ``lr``; a layer n before it has ``lr * layer_decay ** n``. What timm says is
    to have no weight decay (position embeddings), biases and norms have none.
    """
    whole = copy.copy(model)
    whole._modules = {**model._modules, _HEAD: head}
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        whole, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    return [group | {"lr": lr * group["lr_scale"]} for group in groups]
