"""What can be said of an encoder without labels: how it places two views of the same image, and different images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from ppssl.encoder import evaluation_mode
from ppssl.metrics.rankme import rankme

__all__ = ["embed_two_views", "label_free_values"]

_EPOCH = -2
"""Its views are drawn as those of an epoch; -1 is the pass that fills the key queue."""


def label_free_values(first: Tensor, second: Tensor) -> dict[str, float]:
    """Values of the embeddings of two views of each image.

    Args:
        first: Embeddings of one view of each image, ``(N, D)``, N >= 2.
        second: Those of the other view.

    Returns:
        ``view_agreement``: share of the images whose view has its own other view as the nearest among all images',
        by cosine. ``alignment``: mean squared distance of the two normalised embeddings, in [0, 4], and ``uniformity``:
        log of the mean of exp(-2 distance^2) over pairs of images, at most 0; lower is better for both (Wang and Isola,
        ICML 2020). ``rankme``: effective rank of ``first``.
    """
    x, y = (F.normalize(views.float(), dim=1) for views in (first, second))
    similarity = x @ y.T
    own = torch.arange(len(x), device=x.device)
    return {
        "view_agreement": float((similarity.argmax(dim=1) == own).float().mean()),
        "alignment": float((2 - 2 * similarity.diagonal()).mean()),
        "uniformity": float(torch.pdist(x).square().mul(-2).exp().mean().log()),
        "rankme": float(rankme(first.float())),
    }


@torch.no_grad()
def embed_two_views(model: LightningModule, data: Any, images: int = 512) -> tuple[Tensor, Tensor]:
    """Embeddings of two augmented views of training images, the same ones at each call: two ``(n, D)`` float32.

    Args:
        model: The model in training, whose output are embeddings.
        data: The data module of ppssl.
        images: Number of images at most; in a run of several processes each has its own.
    """
    views: tuple[list[Tensor], list[Tensor]] = ([], [])
    strategy: Any = model.trainer.strategy
    with evaluation_mode(model):
        for cpu_batch in data.train_dataloader(epoch=_EPOCH):
            batch = strategy.batch_to_device(cpu_batch, strategy.root_device)
            with model.trainer.precision_plugin.forward_context():
                for rows, view in zip(views, batch["views"][:2], strict=True):
                    rows.append(model(view).float())
            if sum(map(len, views[0])) >= images:
                break
    return torch.cat(views[0])[:images], torch.cat(views[1])[:images]
