"""Base class of :class:`ppssl.PPSSL` and the classifiers: default callbacks, and checkpoints that rebuild a model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import numpy as np
import timm
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from ppssl.checkpointing.compatibility import check_class, check_resumable, describe_misfit
from ppssl.checkpointing.files import SCHEMA_VERSION, check_schema, restore
from ppssl.checkpointing.not_finite import record_step
from ppssl.checkpointing.view import View
from ppssl.utils.config import (
    Configurable,
    flat_config,
    main_file_classes,
    not_saved,
    plain_items,
)
from ppssl.utils.errors import UserError
from ppssl.utils.finite import LossHistory, LossOfStep
from ppssl.utils.paths import AnyPath

__all__ = ["TrainingModule"]


class TrainingModule(LightningModule, Configurable):
    """Base class of all models that are trained here; their checkpoints can be loaded without arguments.

    Subclasses set ``encoder`` and implement :meth:`default_callbacks`, :meth:`checkpoint_entry` and the training.
    """

    encoder: Any  # ppssl.encoder.Encoder, whose room comes later
    pretrained: bool | str
    step_offset: int = 0
    """Position in the schedule less the global step; not 0 after resuming with batches or steps of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.loss_history = LossHistory(self._record_step)
        self._view: View | None = None
        self._has_begun = False
        # configuration of the checkpoint whose weights come next
        self._loaded: dict[str, Any] | None = None

    @property
    def evaluation_view(self) -> View:
        """What evaluation shows of an image: size, centre crop, and whether it is squashed."""
        view = self._view or View()
        return view._replace(size=self.encoder.spec["image_size"] or view.size)

    def train_at(self, view: View) -> None:
        """Note the preprocessing of the training's images, for :attr:`evaluation_view`."""
        self._view = view

    def default_callbacks(self) -> list[Callback]:
        """The callbacks of every run of this model, unless the Trainer has one of the same class."""
        raise NotImplementedError

    def configure_callbacks(self) -> list[Callback]:
        """The default callbacks, without those whose class or a subclass of it the Trainer has already.

        This comes first in a run, and names arguments that its checkpoints will not hold.
        """
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, BackboneFinetuning) for callback in present):
            raise UserError(
                "`BackboneFinetuning` is not supported, as the encoder is not in `model.backbone`: set "
                "`model.freeze_epochs` of FineTune, or `model.encoder_start` of PPSSL."
            )
        self._name_what_is_not_held()
        return [
            default
            for default in self.default_callbacks()
            if not any(isinstance(callback, type(default)) for callback in present)
        ]

    def _name_what_is_not_held(self) -> None:
        config, cls = self.config(), type(self).__name__
        for name, kind in not_saved(config).items():
            argument = name.partition(".")[0]
            timm_name = getattr(self.encoder.model, "pretrained_cfg", {}).get("architecture")
            by_name = f"; by its name they would hold it, `backbone={timm_name!r}`"
            rank_zero_warn(
                f"`{name}` is a `{kind}`, which checkpoints do not hold: load them with "
                f"`{cls}.load_from_checkpoint(path, {argument}=...)`"
                f"{by_name if name == 'backbone' and timm_name else ''}."
            )
        for name, kind in main_file_classes(config).items():
            rank_zero_info(
                f"`{name}` is a `{kind}` of this program's main file, where others do not find it: to load checkpoints "
                "elsewhere, define it in a module of its own, and import that."
            )

    def renew_copies(self) -> None:
        """Have callbacks that average the weights copy the model again, at the end of its own setup.

        Lightning calls their setup first, before the model has all its layers.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                callback.setup(self.trainer, self, "fit")

    def log_step(self, loss: Tensor, logs: Mapping[str, Tensor], *, batch_size: int) -> None:
        """Log values of a training step under ``train/``, in the steps in which loggers write; check the losses then.

        ``train/lr``, the largest learning rate of all parameters, is logged beside them.
        Reading a value makes the host wait for the device, so nothing is read in the steps in between.

        Args:
            loss: The total loss, a scalar; also shown in the progress bar.
            logs: More scalars, by name.
            batch_size: Number of images in the batch.

        Raises:
            UserError: A loss since the last logged step is not finite.
        """
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (self.global_step + 1) % every:
            return
        self.loss_history.check()
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=batch_size)
        self.log("train/lr", max(rates), batch_size=batch_size)
        self.log_dict({f"train/{n}": value for n, value in logs.items()}, batch_size=batch_size)

    def _keep_losses(self, loss: Tensor, terms: Mapping[str, Tensor], index: Tensor) -> None:
        """Keep the losses of a step until they are checked (:meth:`ppssl.utils.finite.LossHistory.add`)."""
        self.loss_history.add(loss, terms, index, step=self.global_step, epoch=self.current_epoch)

    def _record_step(self, step: LossOfStep) -> str:
        """Write what repeats a step whose loss is not finite; returns a sentence for the error message."""
        path = record_step(self, step) if self._has_trainer() else None
        return "" if path is None else f"`ppssl doctor --replay {path}` finds where it comes from."

    def on_fit_start(self) -> None:
        """Give the configurations of model and data to the loggers; say where the weights of a new model come from."""
        self._expect_frozen()
        if not self._has_begun:
            self.report_random_start()
        self._has_begun = True
        parts = {"model": self, "data": self._data_module()}
        shown = {
            name: flat_config(part.config())
            for name, part in parts.items()
            if isinstance(part, Configurable)
        }
        for logger in self.trainer.loggers:
            logger.log_hyperparams(shown)

    def _expect_frozen(self) -> None:
        """Silence Lightning's warning about modules in evaluation mode if all of them are frozen by an encoder.

        These are frozen batch norms, and all of a frozen copy. The filter names their number: one more module in
        evaluation mode, and Lightning warns.
        """
        frozen: set[nn.Module] = set()
        for encoder in (part for part in self.modules() if isinstance(part, type(self.encoder))):
            is_copy = not any(parameter.requires_grad for parameter in encoder.parameters())
            frozen |= set(encoder.modules()) if is_copy else set(encoder.frozen_norms())
        count = sum(not part.training for part in self.modules())
        if count and count == sum(not part.training for part in frozen):
            message = rf"Found {count} module\(s\) in eval mode at the start of training"
            warnings.filterwarnings("ignore", message)

    def on_train_epoch_start(self) -> None:
        """Drop the gradients of the step before.

        ``StochasticWeightAveraging`` ends with an epoch for batch norm without backward passes, whose last batch would
        make a step with them.
        """
        self.zero_grad()

    def on_train_epoch_end(self) -> None:
        """Check the losses since the last logged step."""
        self.loss_history.check()

    def checkpoint_entry(self) -> dict[str, Any]:
        """Plain data that a checkpoint needs to rebuild the model, beside its constructor arguments."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the entry ``ppssl``, from which the model can be rebuilt."""
        self.loss_history.check()
        for name in (
            "hyper_parameters",
            "datamodule_hyper_parameters",
        ):  # of `save_hyperparameters`
            if name in checkpoint:  # objects in it would make the file unsafe to load
                checkpoint[name] = plain_items(checkpoint[name])
        if not self._has_trainer():
            rank_zero_warn(
                "The training was in processes of its own (`ddp_notebook`, `ddp_spawn`), and only weights came back: "
                "this checkpoint holds the encoder. Those that are written while `fit` runs hold everything."
            )
        data = self._data_module()
        checkpoint["ppssl"] = {
            "schema_version": SCHEMA_VERSION,
            "model": self.config(),
            "encoder": self.encoder.spec,
            "data": data.config() if isinstance(data, Configurable) else None,
            "view": self._view and tuple(self._view),
        } | self.checkpoint_entry()
        for name in checkpoint.keys() & {"optimizer_states", "lr_schedulers", "ppssl"}:
            # scalars of NumPy, such as `lr=np.float64(1e-3)`, would make the file unsafe to load
            checkpoint[name] = apply_to_collection(checkpoint[name], np.generic, np.generic.item)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of other programs, models or optimizers; subclasses make layers that have weights."""
        check_schema(checkpoint)
        self._loaded = checkpoint["ppssl"]["model"]
        self._has_begun = True
        check_class(self, self._loaded)
        self.encoder.restore(checkpoint["ppssl"]["encoder"])
        self._view = self._view or View.of_content(checkpoint["ppssl"])
        if self._is_fitting():
            check_resumable(self, checkpoint)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights as torch does; if those of a checkpoint do not fit, the error names the settings that differ.

        Raises:
            UserError: The weights of a checkpoint do not fit.
            RuntimeError: Other weights do not fit.
        """
        loaded, self._loaded = self._loaded, None
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            if loaded is None:
                raise
            raise UserError(describe_misfit(self, loaded, state_dict, str(error))) from error

    def _is_fitting(self) -> bool:
        return self._has_trainer() and self.trainer.state.fn == "fit"

    def _has_trainer(self) -> bool:
        with suppress(RuntimeError):
            return self.trainer is not None
        return False

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's takes file objects and hparams files too
        cls, checkpoint_path: AnyPath, map_location: Any = "cpu", **overrides: Any
    ) -> Self:
        """The model of a checkpoint; classes outside ppssl are used only if they are imported already.

        Args:
            checkpoint_path: A checkpoint written by a Trainer.
            map_location: The device of the model.
            overrides: Constructor arguments that replace the saved ones, such as ``plugins={...}``.

        Raises:
            UserError: It cannot be read, names foreign classes, holds another model, or its weights do not fit.
        """
        return restore(cls, checkpoint_path, overrides).to(map_location)

    def report_random_start(self) -> None:
        """Say that the encoder starts from random weights where timm has others."""
        name = self.encoder.spec["backbone"]
        if not isinstance(name, str):
            return
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if not self.pretrained and cfg is not None and cfg.has_weights:
            rank_zero_info(
                f"The encoder starts from random weights; timm has pretrained ones of `{name}`: `pretrained: true`."
            )

    def _data_module(self) -> Any:
        return getattr(self.trainer, "datamodule", None) if self._has_trainer() else None

    def _adapt_data(self, data: Any) -> None:
        """Have a data module of ppssl normalise for the encoder, and evaluation show images as it does in training."""
        data.normalise_with(self.encoder.info.mean, self.encoder.info.std)
        self.encoder.check_image_size(data.image_size)
        self.train_at(View.of_data(data))

    @property
    def progress(self) -> float:
        """Finished fraction of the training, in [0, 1]."""
        return min(1.0, (self.global_step + self.step_offset) / self._total_steps)

    @property
    def _total_steps(self) -> int:
        return max(1, int(self.trainer.estimated_stepping_batches))
