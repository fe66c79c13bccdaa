"""What classifiers share: an encoder, a linear layer, the loss over labels, and checkpoints that need no arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from ppssl.checkpointing.files import read_checkpoint
from ppssl.checkpointing.module import TrainingModule
from ppssl.data.transforms import LabelledAugmentation
from ppssl.encoder import Encoder, evaluation_mode
from ppssl.metrics.classification import check_same_classes
from ppssl.utils.checks import check_range
from ppssl.utils.errors import UserError
from ppssl.utils.finite import check_loss
from ppssl.utils.randomness import initial_weights, resolve_seed, seed_step
from ppssl.utils.strategy import prepare

__all__ = ["Classifier"]

ClassWeights = Literal["balanced"] | list[float] | None


class Classifier(TrainingModule):
    """Base of :class:`~ppssl.classify.finetune.FineTune` and :class:`~ppssl.classify.linear_probe.LinearProbe`.

    As a function it is the classifier: ``model(images)`` gives logits ``(B, K)`` of normalised images
    ``(B, 3, H, W)``. It trains on the labelled training images that are not held out (``label_fraction`` and
    ``val_fraction`` of the data module), validates on the held-out ones or the validation split, and looks at the test
    split in ``test`` alone.

    Subclasses implement :meth:`training_loss` and :meth:`configure_optimizers`.

    Args:
        backbone: Any timm model name, or ``resnet_small``; ``None``: that of the checkpoint ``pretrained``, with its
            ``backbone_kwargs``.
        pretrained: Where the encoder's weights come from: timm (``True``), nowhere (``False``), or a local file: a
            checkpoint of ppssl or a timm weight file, which must fit completely.
        image_size: Input height and width in pixels, for models built for one size (ViT); ``None``: their own.
        backbone_kwargs: More arguments of the timm model, such as ``drop_path_rate``.
        num_classes: K; ``None``: as many as the data has, known in ``setup``.
        augmentation: Draws the training views; ``None``: that of the class.
        label_smoothing: Part of each target spread evenly over all classes, in [0, 1).
        class_weights: Factor of each class in the loss: numbers, or ``"balanced"``: N / (K N_k), so that every class
            counts the same; ``None``: 1.
        init_seed: Of all first weights that are random; ``None``: the run's own seed.
        seed: For the steps' own randomness; ``None``: that of ``seed_everything``, or 0.
    """

    class_weight: Tensor

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: bool | str = False,
        image_size: int | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        num_classes: int | None = None,
        augmentation: LabelledAugmentation | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        init_seed: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_range("in [0, 1)", label_smoothing=label_smoothing)
        check_range(">= 2", num_classes=num_classes)
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(
                f"`class_weights` must be 'balanced', numbers or null, got {class_weights!r}."
            )
        if backbone is None:
            backbone, image_size, backbone_kwargs = _of_checkpoint(pretrained, image_size)
        self.backbone = backbone
        self.pretrained = pretrained
        self.image_size = image_size
        self.backbone_kwargs = backbone_kwargs
        self.num_classes = num_classes
        self.augmentation = augmentation
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.init_seed = init_seed
        self.seed = seed
        self.classes: list[str] = []
        with initial_weights(init_seed, "encoder"):
            self.encoder = Encoder(backbone, pretrained, image_size, backbone_kwargs)
        if num_classes is not None:
            self.build([f"class {k}" for k in range(num_classes)])

    def build(self, classes: list[str]) -> None:
        """Make the linear layer for classes of these names; once. A Trainer does it in setup."""
        if not self.classes:
            with initial_weights(self.init_seed, "head"):
                self.head = nn.Linear(self.encoder.info.dim, len(classes))
                nn.init.normal_(self.head.weight, std=0.01)
                nn.init.zeros_(self.head.bias)
            self.register_buffer("class_weight", torch.ones(len(classes)))
        self.classes = list(classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits: ``(B, 3, H, W)`` normalised -> ``(B, K)``."""
        return self.head(self.encoder(images))

    @torch.no_grad()
    def frozen_embedding(self, images: Tensor) -> Tensor:
        """``(B, D)`` of the encoder as in evaluation: no gradient, no dropout, no statistics of the batch."""
        with evaluation_mode(self.encoder):
            return self.encoder(images)

    def setup(self, stage: str) -> None:
        """Tell the data module what is needed; make what depends on the classes."""
        self.config()  # raises now, not after an epoch
        data = self._data_module()
        if not hasattr(data, "request_labelled"):
            raise UserError(
                "A classifier is trained on one of ppssl's data modules: "
                "`trainer.fit(model, FolderDataModule(...))`."
            )
        info = self.encoder.info
        data.normalise_with(info.mean, info.std)
        data.request_labelled(self.augmentation or self.default_augmentation())
        prepare(self)
        if stage == "predict":  # images of any class, or of none
            return
        if not data.has_labels():
            raise UserError(
                f"Nothing to {'learn' if stage == 'fit' else 'compare with'}: no training image has a label. "
                "Put images into class folders."
            )
        self._take_classes(list(data.classes))
        if stage == "fit":
            self.class_weight = self._weights(data.sources["train"].labels[data.train_fit])

    def default_augmentation(self) -> LabelledAugmentation:
        """What draws the training views where none is given."""
        return LabelledAugmentation()

    def _take_classes(self, classes: list[str]) -> None:
        placeholders = self.classes == [f"class {k}" for k in range(len(self.classes))]
        if self.classes and not (placeholders and len(self.classes) == len(classes)):
            check_same_classes(self.classes, data=classes)
        self.build(classes)

    def _weights(self, labels: np.ndarray) -> Tensor:
        weight = torch.ones(len(self.classes), device=self.device)
        if self.class_weights is None:
            return weight
        if self.class_weights == "balanced":
            present = np.unique(labels)
            found = compute_class_weight("balanced", classes=present, y=labels)
            weight[present] = torch.tensor(found, dtype=weight.dtype, device=self.device)
            return weight
        if len(self.class_weights) != len(self.classes) or min(map(float, self.class_weights)) < 0:
            raise UserError(
                f"`class_weights` must be {len(self.classes)} numbers >= 0, one a class, got {self.class_weights}."
            )
        return torch.tensor(self.class_weights, dtype=weight.dtype, device=self.device)

    def wanted_callbacks(self) -> list[Callback]:
        """The monitors and what resuming needs."""
        # Callbacks look at what is here, so their room is above this one: known only when a Trainer asks.
        from ppssl.callbacks.classification import ClassificationMonitor
        from ppssl.callbacks.throughput import Throughput
        from ppssl.checkpointing.resume import ResumeState

        return [ClassificationMonitor(), Throughput(), ResumeState()]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch; its random numbers depend on seed, step and process alone."""
        seed_step(resolve_seed(self.seed), self.global_step, batch_idx, self.global_rank)
        loss = self.training_loss(batch, batch_idx)
        where = {"step": self.global_step, "epoch": self.current_epoch}
        check_loss(loss, {"loss": loss.detach()}, batch["index"], **where)
        size = len(batch["index"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
        self.log("train/lr", max(rates), batch_size=size)
        return loss

    def training_loss(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss of a training batch, ``image`` and ``label``."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy, the mean over the batch of ``-sum_k w_k t_k log softmax(logits)_k``.

        Args:
            logits: ``(B, K)``.
            target: ``(B,)`` integer labels, smoothed here; or ``(B, K)`` distributions t, taken as they are.
        """
        smoothing = self.label_smoothing if target.ndim == 1 else 0.0
        per_image = F.cross_entropy(
            logits, target, self.class_weight, reduction="none", label_smoothing=smoothing
        )
        return per_image.mean()

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Logits of a batch of images ``(B, K)``; the monitor callback collects them."""
        return self(batch["image"])

    test_step = validation_step
    predict_step = validation_step

    def checkpoint_entry(self) -> dict[str, Any]:
        """The names of the classes."""
        return {"classes": self.classes}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make what the checkpoint has weights for.

        Raises:
            UserError: It holds no classifier, or one of other classes than the data.
        """
        super().on_load_checkpoint(checkpoint)
        content = checkpoint["ppssl"]
        if "classes" not in content:
            kind = content["model"]["class_path"].rpartition(".")[2]
            raise UserError(
                f"The checkpoint holds a `{kind}`, no classifier: train one from its encoder, "
                "`ppssl fit --config ppssl:folder/finetune --model.pretrained path/to/last.ckpt`."
            )
        placeholders = [f"class {k}" for k in range(len(self.classes))]
        if self.classes not in ([], placeholders):
            check_same_classes(content["classes"], data=self.classes)
        self.build(content["classes"])

    def on_predict_start(self) -> None:
        """Raise where there is no linear layer yet."""
        if not self.classes:
            raise UserError("Nothing is trained: name a classifier's checkpoint, `--ckpt_path`.")

    def _announce(self, lr: float) -> None:
        images = len(self._data_module().train_fit)
        rank_zero_info(
            f"{images} labelled images, {len(self.classes)} classes; learning rate {lr:.3g}, {self._total_steps} steps."
        )


def _of_checkpoint(
    pretrained: bool | str, image_size: int | None
) -> tuple[str, int | None, dict[str, Any]]:
    """Backbone, image size and arguments of the encoder in a checkpoint of ppssl."""
    if not isinstance(pretrained, str):
        raise UserError(
            "`backbone` must name a timm model, or `pretrained` a checkpoint of ppssl that knows its own."
        )
    if Path(pretrained).suffix == ".safetensors":
        raise UserError(f"{pretrained} holds weights alone: name the `backbone` they belong to.")
    spec = read_checkpoint(pretrained)["ppssl"]["encoder"]
    return spec["backbone"], image_size or spec["image_size"], dict(spec["kwargs"])
