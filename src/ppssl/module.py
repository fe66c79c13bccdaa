"""PPSSL, the LightningModule for pretraining: encoder, contrastive objective and loss plugins (:ref:`F5 <f5>`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor, nn

from ppssl.callbacks.equal_batches import EqualBatches
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.callbacks.throughput import Throughput
from ppssl.checkpointing.module import TrainingModule
from ppssl.checkpointing.resume import ResumeState
from ppssl.encoder import BatchNormPolicy, Encoder
from ppssl.inference.preprocessing import preprocess
from ppssl.losses.ais.plugin import AIS
from ppssl.losses.batch import check_batch, check_evaluation_batch, count_images
from ppssl.losses.contrastive import ContrastiveObjective, ContrastiveResult, MoCo
from ppssl.losses.contrastive.prefill import fill
from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep, training_step
from ppssl.losses.plugin_group import PluginGroup, as_modules
from ppssl.utils import optim
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import initial_weights, resolve_seed, seed_step, torch_seed
from ppssl.utils.strategy import check_trainer, prepare

__all__ = ["PPSSL"]


class PPSSL(TrainingModule):
    """Priority-perception self-supervised learning (arXiv 2412.00134) of an encoder.

    ``L = contrastive_weight * L_con + sum of weight(progress) * L_plugin``. As a function it is its encoder:
    ``model(images)`` gives the embeddings ``(B, C)`` of normalised images ``(B, 3, H, W)``.

    A subclass may replace :meth:`build` (layers of its own), :meth:`loss_terms` (losses beside the plugins),
    :meth:`losses`, :meth:`configure_optimizers`, :meth:`forward` (validation and prediction; :func:`ppssl.evaluate` and
    :func:`ppssl.load_encoder` use the encoder) and :meth:`default_callbacks`. Its own arguments are saved in
    checkpoints and shown by loggers.

    Args:
        backbone: Any timm model name, ``resnet_small``, or a module that returns a feature map or tokens
            (:class:`~ppssl.utils.module_encoder.ModuleEncoder`).
        pretrained: Where the encoder's weights come from: timm (``True``), nowhere (``False``), or a local file: a
            checkpoint of ppssl or a timm weight file, which must fit completely. Of a module: whether the weights that
            it brings are pretrained, or a file.
        image_size: Input height and width in pixels, for models built for one size (ViT); ``None``: their own.
        backbone_kwargs: More arguments of the timm model, as ``{global_pool: gem}``: :class:`~ppssl.utils.gem.GeM`.
        batch_norm: Statistics of batch norm in query and key encoder: ``"frozen"`` running statistics, ``"batch"``
            statistics, or ``"auto"``: frozen for pretrained weights (:class:`~ppssl.encoder.Encoder`).
        compile_encoder: Compile the encoders in training steps (``torch.compile``): a minute or more at the start for
            faster steps on a GPU. Weights and files stay those of the plain model, which also runs in evaluation and in
            steps in which IADM makes its maps.
        init_seed: Seed of all randomly initialised weights, for runs that differ in ``seed`` but share their initial
            weights; ``None``: the seed of the run.
        contrastive: The contrastive objective; ``None``: :class:`~ppssl.losses.contrastive.MoCo`.
        contrastive_weight: Weight of L_con; 0 trains with the plugins alone.
        plugins: Loss plugins by name.
        optimizer: ``"sgd"``, ``"adamw"`` or ``"lars"`` (for large batches).
        base_lr: Learning rate for a global batch of 128; it scales with the batch. ``"auto"``: 0.03 for SGD, 0.15 for
            LARS, and for AdamW 2e-3, or 6e-5 from pretrained weights.
        lr: Learning rate, independent of the batch size; replaces ``base_lr``.
        weight_decay: Weight decay of matrices and kernels; norms, biases and position embeddings are not decayed.
        sgd_momentum: Momentum of SGD and LARS.
        warmup_fraction: Fraction of the steps with a linearly rising learning rate; a cosine decay to 0 follows.
        encoder_start: Fraction of the steps in which only the heads are trained, which are random at first
            (:ref:`R2 <r2>`); ``"auto"``: 0.1 for pretrained weights, else 0.
        seed: Seed of the random numbers of each step; ``None``: that of ``seed_everything``, or 0.
        monitors: Whether kNN, retrieval, throughput and what plugins show are monitored; resuming is as exact without.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet50",
        *,
        pretrained: bool | str = False,
        image_size: int | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        batch_norm: BatchNormPolicy = "auto",
        compile_encoder: bool = False,
        init_seed: int | None = None,
        contrastive: ContrastiveObjective | None = None,
        contrastive_weight: float = 1.0,
        plugins: dict[str, LossPlugin] | None = None,
        optimizer: optim.OptimizerName = "sgd",
        base_lr: float | Literal["auto"] = "auto",
        lr: float | None = None,
        weight_decay: float = 1e-4,
        sgd_momentum: float = 0.9,
        warmup_fraction: float = 0.0,
        encoder_start: float | Literal["auto"] = "auto",
        seed: int | None = None,
        monitors: bool = True,
    ) -> None:
        super().__init__()
        check_choice(get_args(optim.OptimizerName), optimizer=optimizer)
        if base_lr == "auto":
            base_lr = optim.default_base_lr(optimizer, pretrained=bool(pretrained))
        if encoder_start == "auto":
            encoder_start = 0.1 if pretrained else 0.0
        check_range("> 0", base_lr=base_lr, lr=lr)
        check_range(">= 0", contrastive_weight=contrastive_weight, weight_decay=weight_decay)
        check_range("in [0, 1)", warmup_fraction=warmup_fraction, encoder_start=encoder_start)
        check_range("in [0, 1)", sgd_momentum=sgd_momentum)
        self.pretrained = pretrained
        self.init_seed = init_seed
        self.image_size = image_size
        self.backbone_kwargs = backbone_kwargs
        self.optimizer = optimizer
        self.base_lr: Any = base_lr  # resolved: a checkpoint is loaded without `pretrained`
        self.lr = lr
        self.weight_decay = weight_decay
        self.sgd_momentum = sgd_momentum
        self.warmup_fraction = warmup_fraction
        self.encoder_start: Any = encoder_start  # resolved, as `base_lr` is
        self.seed = seed
        self.monitors = monitors
        with initial_weights(init_seed, "encoder"):
            self.encoder = Encoder(backbone, pretrained, image_size, backbone_kwargs, batch_norm)
        self.backbone = self.encoder.backbone  # of a module what can be told
        self.compile_encoder = self.encoder.compiled = compile_encoder
        self.batch_norm: BatchNormPolicy = self.encoder.batch_norm  # resolved, as `base_lr` is
        self.contrastive = MoCo() if contrastive is None else contrastive
        self.contrastive_weight = contrastive_weight
        self.plugins = as_modules(plugins or {})
        self._num_images: int | None = None
        self._result: ContrastiveResult | None = None

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings p of normalised images: ``(B, 3, H, W) -> (B, C)``."""
        return self.encoder(images)

    def transform(self, image: Image.Image) -> Tensor:
        """What evaluation does to an image, at the size of the training: ``(3, S, S)`` float32, normalised.

        :func:`ppssl.load_transform` does the same for a checkpoint.
        """
        return preprocess(self, image)

    def describe(
        self, images: Tensor, corpus: Sequence[str] | None = None, *, k: int = 3
    ) -> list[list[tuple[str, float]]]:
        """The best-matching descriptions of normalised images ``(B, 3, H, W)``; needs a model trained with AIS.

        See :meth:`ppssl.losses.ais.plugin.AIS.describe`.
        """
        for plugin in self.plugins.values():
            if isinstance(plugin, AIS):
                return plugin.describe(self(images), corpus, k=k)
        raise UserError("Only a model trained with AIS can describe: this one has no such plugin.")

    def setup(self, stage: str) -> None:
        """Configure the data module; create the parts whose sizes depend on the data."""
        self.config()  # raises now, not after an epoch
        check_trainer(self.trainer)
        if hasattr(data := self._data_module(), "normalise_with"):
            self._adapt_data(data)
            for size in data.view_sizes[2:]:
                self.encoder.check_further_view(size, size)
            data.request(self._plugin_group.data_requests())
        if stage == "fit":
            self._plugin_group.prepare(data, self.trainer.strategy)
            self._build_once(count_images(data, self.trainer))
            prepare(self)
            self.renew_copies()

    def build(self, num_images: int) -> None:
        """Create heads, queue and plugin parameters; called once, in ``setup`` or when a checkpoint is loaded.

        Args:
            num_images: Number of training images.
        """
        self._num_images = num_images
        with initial_weights(self.init_seed, "contrastive"):
            self.contrastive.build(self.encoder, num_images=num_images)
        self._plugin_group.build(self.encoder.info, self.init_seed)

    def _build_once(self, num_images: int | None) -> None:
        if num_images is not None and self._num_images is None:
            self.build(num_images)

    @property
    def _plugin_group(self) -> PluginGroup:
        return PluginGroup(self.plugins)

    def default_callbacks(self) -> list[Callback]:
        """Monitors, resuming, and the callbacks of the plugins."""
        # Throughput starts its clock after the figures of the epoch before are drawn.
        if not self.monitors:
            return [EqualBatches(), ResumeState()]
        watchers = [RepresentationMonitor(), *self._plugin_group.callbacks(), Throughput()]
        return [EqualBatches(), *watchers, ResumeState()]

    def on_fit_start(self) -> None:
        """Let the plugins prepare what needs their weights."""
        super().on_fit_start()
        self._plugin_group.on_fit_start(self._data_module(), self.device)

    def on_train_start(self) -> None:
        """Fill the key queue with keys of training images."""
        fill(self.contrastive, self.trainer, self._data_module(), resolve_seed(self.seed))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; its random numbers depend on seed, step and rank only."""
        seed, step = resolve_seed(self.seed), self.global_step
        seed_step(seed, step, batch_idx, self.global_rank)
        shared = torch_seed(seed, "shared step", step, batch_idx)
        loss, logs = self.losses(batch, seed=shared, progress=self.progress, number=step)
        self.log_step(loss, logs, batch_size=len(batch["index"]))
        return loss

    def on_after_backward(self) -> None:
        """Enqueue the keys. Without a Trainer call it after backward passes, ``contrastive.after_step`` after steps."""
        if self._result is not None:
            self.contrastive.after_backward(self._result)
        self._result = None

    def losses(
        self, batch: Mapping[str, Any], *, seed: int, progress: float, number: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch. Works without a Trainer: :meth:`on_after_backward` says what has to follow.

        Args:
            batch: A training batch as the data module gives it.
            seed: Seed of the step, equal on all processes.
            progress: Finished fraction of the training, in [0, 1].
            number: Number of optimizer steps before this one.

        Returns:
            The total loss, a scalar with its graph, and the values to log, by name.
        """
        check_batch(batch)
        self.train_at(self.evaluation_view._replace(size=batch["views"][0].shape[-1]))
        batch = self._plugin_group.edited(batch)
        batch = self._plugin_group.differentiable(batch, progress, number)
        result, of_images = self.contrastive.over_views(self.encoder, batch, seed=seed)
        self._result = result
        contrastive = of_images.mean()
        terms = self.loss_terms(training_step(batch, result, progress, number))
        others, logs = self._plugin_group.weighted_sum(terms, progress)
        loss = self.contrastive_weight * contrastive + others
        logs = {**result.logs, "loss_contrastive": contrastive.detach(), **logs}
        values = {"contrastive": of_images} | {name: term.value for name, term in terms.items()}
        self._keep_losses(loss, values, batch["index"])
        return loss, logs

    def loss_terms(self, step: TrainingStep) -> dict[str, LossTerm]:
        """Terms of the loss beside L_con, by name: those of the plugins. Subclasses add theirs, of weight 1."""
        return self._plugin_group.terms(step)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Gradient clipping whose norm does not change with a plugin of weight 0."""
        by_norm = gradient_clip_algorithm != "value"
        if by_norm and gradient_clip_val is not None and gradient_clip_val > 0:
            optim.clip_gradient_norm(optimizer, gradient_clip_val, separate=self.plugins.values())
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Optimizer step, then the momentum update; both are left out where fp16 loss scaling skips the step."""
        before = optim.loss_scale(self.trainer.scaler)
        super().optimizer_step(*args, **kwargs)
        if optim.loss_scale(self.trainer.scaler) >= before:
            steps = self._total_steps
            self.contrastive.after_step(self.encoder, progress=self.progress, total_steps=steps)

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Embeddings of a batch of images ``(B, C)``; the monitor callback collects them."""
        check_evaluation_batch(batch)
        return self(batch["image"])

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> Any:
        """Optimizer over all trained parameters, with warm-up and cosine decay by step."""
        source = self._data_module() or self.trainer.train_dataloader
        return optim.pretraining_optimizer(self, source, self._total_steps)

    def checkpoint_entry(self) -> dict[str, Any]:
        """The number of training images, and the plugins' sizes."""
        return {"num_images": self._num_images, "sizes": self._plugin_group.sizes()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the parts that the checkpoint has weights for."""
        super().on_load_checkpoint(checkpoint)
        self._plugin_group.restore_sizes(checkpoint["ppssl"].get("sizes", {}))
        self._build_once(checkpoint["ppssl"]["num_images"])
