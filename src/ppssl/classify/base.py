"""Base class of the classifiers: an encoder with a linear layer, its loss, and its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from ppssl.callbacks.classification import ClassificationMonitor
from ppssl.callbacks.throughput import Throughput
from ppssl.checkpointing.backbone import backbone_of_checkpoint
from ppssl.checkpointing.files import check_schema, read_checkpoint
from ppssl.checkpointing.module import TrainingModule
from ppssl.checkpointing.resume import ResumeState
from ppssl.data.labelled_augmentation import LabelledAugmentation
from ppssl.encoder import BatchNormPolicy, Encoder, evaluation_mode
from ppssl.inference.preprocessing import preprocess
from ppssl.metrics.classification import check_same_classes
from ppssl.utils.checks import check_range
from ppssl.utils.errors import UserError
from ppssl.utils.paths import PATH_TYPES
from ppssl.utils.randomness import initial_weights, resolve_seed, seed_step
from ppssl.utils.strategy import check_trainer, prepare

__all__ = ["Classifier"]

ClassWeights = Literal["balanced"] | list[float] | None


class Classifier(TrainingModule):
    """Base class of the classifiers: an encoder with a linear layer.

    ``model(images)`` returns the logits ``(B, K)`` of normalised images ``(B, 3, H, W)``. The classifier is trained on
    the labelled training images that are not held out (``label_fraction`` and ``val_fraction`` of the data module),
    validated on the validation split or the held-out images, and evaluated on the test split only by ``test``.

    Subclasses implement :meth:`training_loss` and :meth:`configure_optimizers`: see
    :class:`~ppssl.classify.finetune.FineTune` and :class:`~ppssl.classify.linear_probe.LinearProbe`.

    Args:
        backbone: Any timm model name, ``resnet_small``, or a module as for :class:`ppssl.PPSSL`; ``None``: backbone and
            ``backbone_kwargs`` of the checkpoint ``pretrained``.
        pretrained: Initial weights of the encoder: timm's (``True``), random (``False``), or a local file, which must
            fit completely: a checkpoint of ppssl or a timm weight file.
        image_size: Input height and width in pixels, for models with a fixed size (ViT); ``None``: the model's default.
        backbone_kwargs: Further arguments of the timm model, such as ``drop_path_rate``.
        num_classes: Number of classes K; ``None``: that of the data set.
        augmentation: Augmentation of the training images; ``None``: the class's default.
        label_smoothing: Fraction of each target that is spread evenly over all classes, in [0, 1).
        class_weights: Weight of each class in the loss: numbers, or ``"balanced"`` for N / (K N_k), which gives all
            classes the same total weight; ``None``: 1.
        batch_norm: Statistics of batch norm in training: of the ``"batch"``, the running ones (``"frozen"``), or
            ``"auto"``: frozen for pretrained weights (:class:`~ppssl.encoder.Encoder`).
        init_seed: Seed of all random initial weights; ``None``: the run's seed.
        seed: Seed of the random numbers in training steps; ``None``: that of ``seed_everything``, or 0.
    """

    class_weight: Tensor

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        pretrained: bool | str = False,
        image_size: int | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        num_classes: int | None = None,
        augmentation: LabelledAugmentation | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        batch_norm: BatchNormPolicy = "batch",
        init_seed: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_range("in [0, 1)", label_smoothing=label_smoothing)
        check_range(">= 2", num_classes=num_classes)
        if backbone is None:
            given = backbone_kwargs or {}
            backbone, image_size, backbone_kwargs = _of_checkpoint(pretrained, image_size)
            _report_dropped(given, backbone_kwargs)
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
            self.encoder = Encoder(backbone, pretrained, image_size, backbone_kwargs, batch_norm)
        self.backbone = self.encoder.backbone  # of a module what can be told
        # "auto" resolved: a checkpoint is loaded without `pretrained`
        self.batch_norm: BatchNormPolicy = self.encoder.batch_norm
        if num_classes is not None:
            self.build([f"class {k}" for k in range(num_classes)])

    def build(self, classes: list[str]) -> None:
        """Create the linear layer for classes of these names, if there is none yet; a Trainer calls this in setup."""
        if not self.classes:
            with initial_weights(self.init_seed, "head"):
                self.head = nn.Linear(self.encoder.info.dim, len(classes))
                nn.init.normal_(self.head.weight, std=0.01)
                nn.init.zeros_(self.head.bias)
            self.register_buffer("class_weight", torch.ones(len(classes)))
        self.classes = list(classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of normalised images: ``(B, 3, H, W) -> (B, K)``."""
        return self.head(self.encoder(images))

    def transform(self, image: Image.Image) -> Tensor:
        """Prepare an image as evaluation does, at the size of the training: ``(3, S, S)`` float32, normalised."""
        return preprocess(self, image)

    @torch.no_grad()
    def frozen_embedding(self, images: Tensor) -> Tensor:
        """Embed images in evaluation mode without gradient, ``(B, D)``: no dropout, no batch statistics."""
        with evaluation_mode(self.encoder):
            return self.encoder(images)

    def setup(self, stage: str) -> None:
        """Configure the data module, and create the linear layer for its classes."""
        self.config()  # an argument that cannot be saved raises here, not at the first checkpoint
        check_trainer(self.trainer)
        data = self._data_module()
        if not hasattr(data, "request_labelled"):
            raise UserError(
                "A classifier needs one of ppssl's data modules: call `trainer.fit(model, FolderDataModule(...))`."
            )
        self._adapt_data(data)
        data.request_labelled(self.augmentation or self.default_augmentation())
        prepare(self)
        if stage == "predict":  # needs no labels
            return
        if not data.has_labels():
            raise UserError(
                f"Nothing to {'learn' if stage == 'fit' else 'compare with'}: no training image has a label. "
                "Put images into class folders."
            )
        if len(data.classes) < 2:
            raise UserError(
                f"A classifier needs two classes or more, and the data set has `{data.classes[0]}` only."
            )
        self._take_classes(list(data.classes))
        if stage == "fit":
            self.class_weight = self._weights(data.sources["train"].labels[data.train_fit])
            self.renew_copies()

    def default_augmentation(self) -> LabelledAugmentation:
        """Return the augmentation of the training images if none was given."""
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
            balanced = compute_class_weight("balanced", classes=present, y=labels)
            weight[present] = torch.tensor(balanced, dtype=weight.dtype, device=self.device)
            return weight
        if len(self.class_weights) != len(self.classes) or min(map(float, self.class_weights)) < 0:
            raise UserError(
                f"`class_weights` must be {len(self.classes)} numbers >= 0, one per class, got {self.class_weights}."
            )
        return torch.tensor(self.class_weights, dtype=weight.dtype, device=self.device)

    def default_callbacks(self) -> list[Callback]:
        """Return the callbacks that monitor and save the training, without those of the user."""
        return [ClassificationMonitor(), Throughput(), ResumeState()]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Compute the loss of one batch; its random numbers depend only on seed, step and process."""
        seed_step(resolve_seed(self.seed), self.global_step, batch_idx, self.global_rank)
        loss = self.training_loss(batch, batch_idx)
        self._keep_losses(loss, {"loss": loss}, batch["index"])
        self.log_step(loss, {}, batch_size=len(batch["index"]))
        return loss

    def training_loss(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Compute the loss of a training batch with the entries ``image`` and ``label``."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the weighted cross-entropy, the mean over the batch of ``-sum_k w_k t_k log softmax(logits)_k``.

        Args:
            logits: ``(B, K)``.
            target: ``(B,)`` integer labels, which are smoothed; or ``(B, K)`` distributions t, which are not.
        """
        smoothing = self.label_smoothing if target.ndim == 1 else 0.0
        per_image = F.cross_entropy(
            logits, target, self.class_weight, reduction="none", label_smoothing=smoothing
        )
        return per_image.mean()

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Return the logits of a batch, ``(B, K)``, for the monitor callback."""
        return self(batch["image"])

    test_step = validation_step
    predict_step = validation_step

    def checkpoint_entry(self) -> dict[str, Any]:
        """Return the class names, which are saved in checkpoints."""
        return {"classes": self.classes}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the linear layer of the checkpoint's classes.

        Raises:
            UserError: The checkpoint is not of a classifier, or its classes differ from those of the data set.
        """
        check_schema(checkpoint)
        content = checkpoint["ppssl"]
        if "classes" not in content:
            kind = content["model"]["class_path"].rpartition(".")[2]
            raise UserError(
                f"The checkpoint is of a `{kind}`, not of a classifier: train one from its encoder with "
                "`ppssl fit --config ppssl:folder/finetune --model.pretrained path/to/last.ckpt`."
            )
        super().on_load_checkpoint(checkpoint)
        placeholders = [f"class {k}" for k in range(len(self.classes))]
        if self.classes not in ([], placeholders):
            check_same_classes(content["classes"], data=self.classes)
        self.build(content["classes"])

    def on_predict_start(self) -> None:
        """Check that there is a trained linear layer."""
        if not self.classes:
            raise UserError(
                "The classifier is not trained: give its checkpoint with `--ckpt_path path/to/last.ckpt`."
            )

    def _announce(self, lr: float) -> None:
        images = len(self._data_module().train_fit)
        rank_zero_info(
            f"{images} labelled images, {len(self.classes)} classes; learning rate {lr:.3g}, {self._total_steps} steps."
        )


def _of_checkpoint(
    pretrained: bool | str, image_size: int | None
) -> tuple[str | nn.Module, int | None, dict[str, Any]]:
    """Backbone, image size and arguments of the encoder in a checkpoint of ppssl."""
    if not isinstance(pretrained, PATH_TYPES):
        raise UserError(
            "`backbone` is missing: give a timm model name, or a checkpoint of ppssl as `pretrained`, which names its "
            "backbone."
        )
    if Path(pretrained).suffix == ".safetensors":
        raise UserError(
            f"`backbone` is missing: {pretrained} holds weights only. Give the timm model that they are of."
        )
    spec = read_checkpoint(pretrained)["ppssl"]["encoder"]
    backbone = backbone_of_checkpoint(spec, "`backbone=...`")
    return backbone, image_size or spec["image_size"], dict(spec["kwargs"])


def _report_dropped(given: dict[str, Any], used: dict[str, Any]) -> None:
    """Name the arguments that a checkpoint's own replace."""
    if dropped := [name for name, value in given.items() if (name, value) not in used.items()]:
        rank_zero_warn(
            f"Passed over: `backbone_kwargs` {', '.join(f'`{name}`' for name in dropped)}. Without `backbone` those of "
            f"the checkpoint are used, {used or 'none'}: give `backbone` too."
        )
