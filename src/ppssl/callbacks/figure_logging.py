"""Logging of figures during training, to TensorBoard or as PNG, and the base class of callbacks that draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ppssl.callbacks.diagnostics import diagnostic
from ppssl.utils.checks import check_range
from ppssl.utils.paths import expand

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from matplotlib.figure import Figure

__all__ = ["FigureCallback", "SingleFigureCallback", "log_figure"]


class FigureCallback(Callback):
    """Base of callbacks that observe the loss plugins of one type and draw training images every few epochs.

    A plugin names its callback (:attr:`ppssl.LossPlugin.watcher`), not the other way round. A figure is drawn after the
    checkpoint of its epoch is written; one that fails is left out with a warning
    (:func:`~ppssl.callbacks.diagnostics.diagnostic`).

    Args:
        every_n_epochs: Epochs between two figures; 0: none.
        num_images: Number of images in a figure, evenly spaced among the training images.
    """

    collective: ClassVar[bool] = False
    """Whether :meth:`draw` takes all processes; otherwise only the first one draws."""

    def __init__(self, every_n_epochs: int, num_images: int) -> None:
        check_range(">= 0", every_n_epochs=every_n_epochs)
        check_range(">= 1", num_images=num_images)
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images

    def should_draw(self, epoch: int) -> bool:
        """Whether a figure is due at the end of an epoch, counted from 0."""
        return self.every_n_epochs > 0 and (epoch + 1) % self.every_n_epochs == 0

    def draw(self, trainer: Trainer, module: Any, name: str, plugin: Any) -> None:
        """Draw and log the figure of a plugin.

        Args:
            trainer: The trainer, at the end of an epoch.
            module: The model, in training mode.
            name: Name of the plugin.
            plugin: The plugin.
        """
        raise NotImplementedError

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what is due of the epoch before, whose checkpoint is written by now."""
        self._draw_due(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what is due of the last epoch."""
        self._draw_due(trainer, pl_module)

    def _draw_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs, data = trainer.current_epoch, getattr(trainer, "datamodule", None)
        if epochs == 0 or not self.should_draw(epochs - 1) or not hasattr(data, "normalise_with"):
            return  # nothing is due, or the images are not of a data module of ppssl
        for name, plugin in self.plugins(pl_module).items():
            if self.collective or trainer.is_global_zero:
                what = f"the figure of `{name}`"
                with diagnostic(self, trainer, what, collective=self.collective):
                    self.draw(trainer, pl_module, name, plugin)

    def plugins(self, module: Any) -> dict[str, Any]:
        """The plugins of a :class:`ppssl.PPSSL` that name this callback as their watcher, by name."""
        plugins = dict(getattr(module, "plugins", {})).items()
        return {name: p for name, p in plugins if p.watcher and isinstance(self, p.watcher)}


class SingleFigureCallback(FigureCallback):
    """Base of those that draw once, after the first epoch, because what they show does not change.

    Args:
        num_images: Number of images in the figure, evenly spaced among the training images; 0: no figure.
    """

    def __init__(self, num_images: int = 8) -> None:
        super().__init__(int(num_images > 0), max(1, num_images))

    def should_draw(self, epoch: int) -> bool:
        """After the first epoch."""
        return epoch == 0 and super().should_draw(epoch)


@rank_zero_only
def log_figure(trainer: Trainer, name: str, figure: Figure, step: int) -> None:
    """Log a figure to TensorBoard, or save it as PNG.

    Args:
        trainer: Its TensorBoard loggers show the figure; without one it is saved as
            ``<log_dir>/figures/<name>-<step>.png``.
        name: A name such as ``ais/descriptions``.
        figure: The matplotlib figure.
        step: The global step.
    """
    boards = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
    for board in boards:
        board.experiment.add_figure(name, figure, step)
    if not boards:
        # Not `trainer.log_dir`: it waits for the other processes, and they are not here.
        places = (getattr(trainer.logger, name, None) for name in ("log_dir", "save_dir"))
        folder = next((place for place in places if place), trainer.default_root_dir)
        path = expand(folder) / "figures" / f"{name.replace('/', '-')}-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
