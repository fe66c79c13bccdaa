"""What watches AIS: makes the bank before training, and shows what teacher and student say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ppssl.callbacks.figures import FigureCallback, log_figure
from ppssl.callbacks.probes import probe_batch
from ppssl.encoder import evaluation_mode
from ppssl.text.bank import ranked
from ppssl.utils.errors import UserError
from ppssl.utils.plots.descriptions import description_panel

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.losses.ais.plugin import AIS

__all__ = ["AISCallback"]


class AISCallback(FigureCallback):
    """Makes the bank of every AIS plugin, and shows images with the best descriptions of teacher and student.

    Each epoch it logs ``train/<name>_corpus_in_use``: the share of the descriptions that the student named first for
    any view. What is logged each step comes from the plugin itself.

    Args:
        every_n_epochs: How often images are shown with the best descriptions of teacher and student; 0: never.
        num_images: How many, evenly spaced among the training images.
        top: How many descriptions of each.
    """

    def __init__(self, every_n_epochs: int = 5, num_images: int = 8, top: int = 3) -> None:
        super().__init__(every_n_epochs, num_images)
        if top < 1:
            raise ValueError(f"`top` must be >= 1, got {top}.")
        self.top = top
        self._used: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the bank; Lightning calls this before the module's own setup, which needs its sizes."""
        if stage != "fit":
            return
        data: Any = getattr(trainer, "datamodule", None)
        for plugin in self.plugins(pl_module).values():
            if not hasattr(data, "normalise_with"):
                raise UserError(
                    "AIS looks up what the teacher said of an image: train with a data module of ppssl, which numbers "
                    "the images."
                )
            plugin.prepare(data, trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Note which descriptions the student named."""
        for name, plugin in self.plugins(pl_module).items():
            if plugin.last_choice is None:
                continue
            if name not in self._used:
                count = len(plugin.targets.texts)
                self._used[name] = torch.zeros(count, dtype=torch.bool)
            self._used[name] = self._used[name].to(plugin.last_choice.device)
            self._used[name][plugin.last_choice] = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of the corpus in use, and draw."""
        for name, plugin in self.plugins(pl_module).items():
            if name in self._used:
                everywhere: Any = pl_module.all_gather(self._used.pop(name))
                share = everywhere.reshape(-1, len(plugin.targets.texts)).any(dim=0).float().mean()
                pl_module.log(f"train/{name}_corpus_in_use", share)
            if self.should_draw(trainer.current_epoch) and trainer.is_global_zero:
                self._draw(trainer, pl_module, name, plugin)

    def state_dict(self) -> dict[str, Any]:
        """What the running epoch has noted."""
        return {"used": {name: used.cpu() for name, used in self._used.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self._used = dict(state_dict["used"])

    def _draw(self, trainer: Trainer, pl_module: Any, name: str, plugin: AIS) -> None:
        data: FineGrainedDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        batch = probe_batch(data, self.num_images)
        targets = plugin.targets
        with evaluation_mode(pl_module), torch.no_grad():
            embeddings = pl_module(data.normalise(batch["image"].to(pl_module.device)))
            q = plugin.student_sees(embeddings, targets.texts)
            p = targets.probabilities(targets.lookup(batch["index"]).to(embeddings.device))
        teacher, student = (ranked(x, targets.titles, self.top) for x in (p, q))
        figure = description_panel(batch["image"], {"teacher": teacher, "student": student})
        log_figure(trainer, f"{name}/descriptions", figure, trainer.global_step)
