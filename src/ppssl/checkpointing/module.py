"""What :class:`ppssl.PPSSL` and the classifiers have in common as LightningModules: callbacks, steps, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from lightning.pytorch import Callback, LightningModule

from ppssl.checkpointing.files import SCHEMA_VERSION, check_schema, restore
from ppssl.utils.config import Configurable

__all__ = ["TrainingModule"]


class TrainingModule(LightningModule, Configurable):
    """Base of what is trained here: an encoder and more, whose checkpoints need no arguments to be loaded.

    Subclasses make their ``encoder``, and implement :meth:`wanted_callbacks`, :meth:`checkpoint_entry` and what a
    LightningModule needs.
    """

    encoder: Any  # ppssl.encoder.Encoder, whose room comes later

    def wanted_callbacks(self) -> list[Callback]:
        """The callbacks that belong to every run of this model."""
        raise NotImplementedError

    def configure_callbacks(self) -> list[Callback]:
        """:meth:`wanted_callbacks`, without those that the Trainer has already, or a subclass of."""
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        wanted = self.wanted_callbacks()
        return [c for c in wanted if not any(isinstance(own, type(c)) for own in present)]

    def checkpoint_entry(self) -> dict[str, Any]:
        """What a checkpoint needs to rebuild the model, beside its constructor arguments; in plain types."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model, in plain types."""
        data = self._data_module()
        checkpoint["ppssl"] = {
            "schema_version": SCHEMA_VERSION,
            "model": self.config(),
            "encoder": self.encoder.spec,
            "data": data.config() if isinstance(data, Configurable) else None,
        } | self.checkpoint_entry()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what is not of ppssl, or of a newer one; subclasses make what the checkpoint has weights for."""
        check_schema(checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's takes file objects and hparams files too
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **overrides: Any
    ) -> Self:
        """The model of a checkpoint. Only classes of ppssl or already imported ones are made.

        Args:
            checkpoint_path: A checkpoint written by a Trainer.
            map_location: The device to put it on.
            overrides: Constructor arguments in place of the saved ones, such as ``plugins={...}``.

        Raises:
            UserError: It cannot be read, holds no such model, names foreign classes, or does not fit.
        """
        return restore(cls, checkpoint_path, overrides).to(map_location)

    def _data_module(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    @property
    def _total_steps(self) -> int:
        return max(1, int(self.trainer.estimated_stepping_batches))
