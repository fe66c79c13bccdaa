"""Callback of AIS: shows the descriptions that teacher and student give images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ppssl.callbacks.diagnostics import diagnostic
from ppssl.callbacks.example_images import example_batch
from ppssl.callbacks.figure_logging import FigureCallback, log_figure
from ppssl.encoder import evaluation_mode
from ppssl.text.bank import ranked
from ppssl.utils.errors import ArgumentError
from ppssl.utils.plots.descriptions import description_panel

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.losses.ais.plugin import AIS

__all__ = ["AISCallback"]


class AISCallback(FigureCallback):
    """Show images with the best descriptions of teacher and student.

    ``train/<name>_corpus_in_use`` is logged in each epoch: the share of descriptions that were the most likely one of
    the student for at least one view.

    Args:
        every_n_epochs: Epochs between two figures; 0: none.
        num_images: Number of images in a figure, evenly spaced among the training images.
        top: Number of descriptions of each image.
    """

    def __init__(self, every_n_epochs: int = 5, num_images: int = 8, top: int = 3) -> None:
        super().__init__(every_n_epochs, num_images)
        if top < 1:
            raise ArgumentError(f"`top` must be >= 1, got {top}.")
        self.top = top
        self._used: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Record the most likely descriptions of the student."""
        for name, plugin in self.plugins(pl_module).items():
            if plugin.last_choice is None:
                continue
            count = len(plugin.targets.texts)
            used = self._used.get(name, torch.zeros(0))
            if len(used) != count:  # also after resuming with a corpus that has grown
                used = torch.zeros(count, dtype=torch.bool)
            self._used[name] = used.to(plugin.last_choice.device)
            self._used[name].index_fill_(0, plugin.last_choice, True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of the corpus in use."""
        used, self._used = self._used, {}
        with diagnostic(self, trainer, "the corpus in use", collective=True):
            for name in [name for name in self.plugins(pl_module) if name in used]:
                everywhere: Any = pl_module.all_gather(used[name])
                share = everywhere.reshape(-1, len(used[name])).any(dim=0).float().mean()
                pl_module.log(f"train/{name}_corpus_in_use", share)

    def state_dict(self) -> dict[str, Any]:
        """Descriptions recorded in the running epoch."""
        return {"used": {name: used.cpu() for name, used in self._used.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self._used = dict(state_dict["used"])

    def draw(self, trainer: Trainer, module: Any, name: str, plugin: AIS) -> None:
        """Draw the descriptions of training images by teacher and student."""
        data: FineGrainedDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        batch = example_batch(data, self.num_images)
        targets = plugin.targets
        with evaluation_mode(module), torch.no_grad():
            embeddings = module(data.normalise(batch["image"].to(module.device)))
            q = plugin.student_sees(embeddings, targets.texts)
            p = targets.probabilities(targets.images.lookup(batch["index"]).to(embeddings.device))
        teacher, student = (ranked(x, targets.titles, self.top) for x in (p, q))
        figure = description_panel(batch["image"], {"teacher": teacher, "student": student})
        log_figure(trainer, f"{name}/descriptions", figure, trainer.global_step)
