"""BackgroundSwap as a plugin: views show each image's salient part on the background of another (:ref:`D20 <d20>`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ppssl.losses.background.callback import BackgroundCallback
from ppssl.losses.background.maps import CELLS, ContrastMaps
from ppssl.losses.loss_plugin import LossPlugin, TrainingStep, numbered_images
from ppssl.text.image_bank import ImageBank, open_image_bank
from ppssl.utils.checks import check_range
from ppssl.utils.errors import UserError

__all__ = ["BackgroundSwap", "maps_of_views", "on_other_backgrounds", "threshold_of"]


class BackgroundSwap(LossPlugin):
    """Salient parts on other backgrounds, in both views: the encoder learns what does not depend on the surroundings.

    The map of an image is its contrast with its local mean, over the whole original, ``(14, 14)``: it needs no model,
    is computed once, before the first step, and stored in a bank. In each view, what lies below a quantile of the map
    is replaced by the same places of another view of the batch, of which the salient part is filled with the mean
    colour of its background. Query and key get the backgrounds of different images; smaller views beyond these two stay
    as they are. It adds no term to the loss. In a run of several processes each swaps within its own batch.

    It helps where objects stand out from surroundings that say nothing of the class, as on synthetic birds, and does
    not on photographs of birds and groceries, which were measured: docs/results/iadm.md.

    Background swaps are Ryali, Schwab and Morcos's (2021, arXiv 2103.12719).

    Args:
        keep: Fraction of the original that counts as salient, in (0, 1].
        bank_dir: Folder of the bank; ``None``: ``$PPSSL_CACHE/banks`` or ``~/.cache/ppssl/banks``.
    """

    watcher = BackgroundCallback

    def __init__(self, keep: float = 0.5, *, bank_dir: str | None = None) -> None:
        super().__init__()
        check_range("in (0, 1]", keep=keep)
        self.keep = keep
        self.bank_dir = bank_dir
        self._bank: ImageBank | None = None

    @property
    def uses_bank(self) -> bool:
        """Maps are looked up by the image's number."""
        return True

    def on_fit_start(self, data: Any, device: torch.device) -> None:
        """Find or make the bank of maps.

        Raises:
            UserError: The data module does not number its images, or does not know where its views were cut out.
        """
        data = numbered_images(data, self)
        if callable(data.augmentation):
            raise UserError(
                "`BackgroundSwap` must know where each view was cut out of its image, which an `augmentation` of your "
                "own does not say: use `ppssl.MoCoV2Augmentation`, or leave the plugin out."
            )
        with isolate_rng():
            self._bank = open_image_bank(ContrastMaps(), data, folder=self.bank_dir, device=device)

    def maps_of(self, index: Tensor) -> Tensor:
        """Maps of training images by their index ``(B,)``: ``(B, 14, 14)`` float32."""
        if self._bank is None:
            raise RuntimeError(
                "BackgroundSwap has no maps: call `on_fit_start(data, device)` before training."
            )
        return self._bank.lookup(index)[:, 0].to(index.device).unflatten(1, (CELLS, CELLS))

    def edit_batch(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with other backgrounds in the views of query and key."""
        views, maps = list(batch["views"]), self.maps_of(batch["index"])
        threshold = threshold_of(maps, self.keep)
        for i in range(2):  # the backgrounds of query and key are of different images
            seen = maps_of_views(maps, batch["geometry"][:, i])
            views[i] = on_other_backgrounds(views[i], seen, threshold, other=1 + i)
        return dict(batch) | {"views": views}

    def forward(self, step: TrainingStep) -> None:
        """No term."""


def threshold_of(maps: Tensor, keep: float) -> Tensor:
    """From which value on a place of maps ``(B, h, w)`` is among the fraction to keep: ``(B, 1, 1, 1)``."""
    ranked = maps.flatten(1)
    rank = int((1 - keep) * (ranked.shape[1] - 1)) + 1
    return ranked.kthvalue(rank, dim=1).values.view(-1, 1, 1, 1)


def maps_of_views(maps: Tensor, geometry: Tensor) -> Tensor:
    """The part of maps ``(B, h, w)`` of whole images that a view of each shows, ``(B, 1, h, w)``, by bilinear sampling.

    Args:
        maps: The maps.
        geometry: ``(B, 5)``, see :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """
    left, top, width, height, flip = geometry.to(maps).unbind(1)
    rows, columns = (
        (torch.arange(n, device=maps.device, dtype=maps.dtype) + 0.5) / n for n in maps.shape[1:]
    )
    across = torch.where(flip[:, None] > 0, 1 - columns, columns) * width[:, None] + left[:, None]
    down = rows * height[:, None] + top[:, None]
    grid = torch.stack(
        [
            across[:, None].expand(-1, len(rows), -1),
            down[:, :, None].expand(-1, -1, len(columns)),
        ],
        dim=-1,
    )
    return F.grid_sample(
        maps[:, None], 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False
    )


def on_other_backgrounds(views: Tensor, seen: Tensor, threshold: Tensor, other: int = 1) -> Tensor:
    """Views ``(B, 3, S, S)`` with the background of the view that is ``other`` places before in the batch.

    Args:
        views: The views, normalised.
        seen: Their maps, ``(B, 1, h, w)``.
        threshold: From which value on a place is salient, ``(B, 1, 1, 1)``.
        other: Places between a view and the one whose background it gets.
    """
    size = (views.shape[-2], views.shape[-1])
    fine = F.interpolate(seen, size=size, mode="bilinear", align_corners=False)
    salient = fine >= threshold
    rest = (~salient).to(views.dtype)
    total = (views * rest).sum(dim=(2, 3), keepdim=True)
    mean = total / rest.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return views.where(salient, mean.where(salient, views).roll(other, dims=0))
