"""Callback of IADM: quality measures of its maps in each epoch, and figures of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ppssl.callbacks.diagnostics import diagnostic
from ppssl.callbacks.example_images import example_batch, example_masks
from ppssl.callbacks.figure_logging import FigureCallback, log_figure
from ppssl.encoder import evaluation_mode
from ppssl.functional import image_gradcam
from ppssl.losses.iadm.health import saliency_health
from ppssl.losses.iadm.output_gradcam import output_gradcam
from ppssl.losses.loss_plugin import training_step
from ppssl.utils.checks import check_range
from ppssl.utils.plots.saliency import saliency_panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.losses.iadm.plugin import IADM

__all__ = ["IADMCallback", "draw_panel", "measure_health", "probe_maps"]


class IADMCallback(FigureCallback):
    """Log ``train/<name>_health_*`` in each epoch (:func:`~ppssl.losses.iadm.health.saliency_health`) and draw panels.

    The same un-augmented training images are used each time. Each is a query, and its mirrored copy the key (with the
    image itself as key the similarity is at its maximum and has no gradient). A panel shows the image, its GradCAM at
    full resolution, A*, the attention of the branch, and Grad-CAM at the output layer by the grad-cam library.

    Args:
        every_n_epochs: Epochs between two panels; 0: none.
        num_images: Number of images in a panel.
        num_probes: Number of images for the quality measures.
    """

    collective: ClassVar[bool] = (
        True  # the keys of shuffled batch norm are gathered from all processes
    )

    def __init__(self, every_n_epochs: int = 5, num_images: int = 6, num_probes: int = 64) -> None:
        super().__init__(every_n_epochs, num_images)
        check_range(">= 1", num_probes=num_probes)
        self.num_probes = num_probes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the quality measures."""
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "normalise_with"):
            return
        for name, plugin in self.plugins(pl_module).items():
            with (
                diagnostic(self, trainer, f"the quality of the maps of `{name}`", collective=True),
                evaluation_mode(pl_module),
            ):
                health = measure_health(pl_module, plugin, data, self.num_probes)
                logged = {f"train/{name}_health_{key}": value for key, value in health.items()}
                pl_module.log_dict(logged)

    def draw(self, trainer: Trainer, module: Any, name: str, plugin: IADM) -> None:
        """Draw the maps of training images."""
        data: FineGrainedDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        with evaluation_mode(module):
            figure = draw_panel(module, plugin, data, self.num_images)
        log_figure(trainer, f"{name}/saliency", figure, trainer.global_step)


def draw_panel(module: Any, plugin: IADM, data: FineGrainedDataModule, count: int) -> Figure:
    """Panel of un-augmented training images with their :func:`probe_maps`; ``module`` in evaluation mode."""
    batch = example_batch(data, count)
    return saliency_panel(batch["image"], probe_maps(module, plugin, data, batch))


def measure_health(
    module: Any, plugin: IADM, data: FineGrainedDataModule, count: int
) -> dict[str, float]:
    """Quality measures of the maps of un-augmented training images."""
    batch = example_batch(data, count)
    maps = probe_maps(module, plugin, data, batch)
    objects, parts = example_masks(data, batch["index"])
    return saliency_health(maps["A*"].cpu(), maps["branch"].cpu(), objects, parts)


def probe_maps(
    module: Any, plugin: IADM, data: FineGrainedDataModule, batch: dict[str, Any]
) -> dict[str, Tensor]:
    """All maps of un-augmented images, each ``(n, h, w)``, by title; no gradient is left behind."""
    x = data.normalise(batch["image"].to(module.device))
    with torch.enable_grad():
        mirrored = x.flip(3)
        views = [x.requires_grad_(), mirrored]
        index = batch["index"].to(module.device)
        pairs = {"views": views, "index": index}
        result = module.contrastive(module.encoder, pairs, seed=0)
        step = training_step(pairs, result, progress=1.0)
        log_map = plugin.branch(step.feature_map)
        target = plugin.saliency(step, (log_map.shape[1], log_map.shape[2]))
        positive = (step.z * step.key).sum(dim=1)
        full = image_gradcam(positive, step.image, plugin.reference)
    with torch.no_grad():
        mirrored_embedding = module.encoder(mirrored)
    output = output_gradcam(
        module.encoder,
        lambda images: F.cosine_similarity(module.encoder(images), mirrored_embedding, dim=1),
        x.detach(),
    )
    branch = log_map.detach().exp()
    maps = {"image GradCAM": full, "A*": target, "branch": branch}
    return maps if output is None else maps | {"output Grad-CAM": output}
