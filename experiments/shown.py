"""Forms of IADM that change what the encoder is shown (docs/method.md, D20 and D21), with their control.

The maps are those of :class:`ppssl.ZoomTeacher`: the energy of the starting encoder's last feature map over the whole
original image, made once. Each form edits the query's view of some of the images before the step.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl import PPSSL
from ppssl.text.image_bank import ImageBank, open_image_bank
from ppssl.text.teachers.timm_teacher import TimmTeacher
from ppssl.utils.checks import check_choice, check_range

Form = Literal["background out", "drop the obvious"]
CELLS = 14
"""Cells along each side of a map."""


class Shown(PPSSL):
    """PPSSL whose query sees an edited view.

    Args:
        form: ``"background out"``: where the map is below its median the view shows another image of the batch;
            ``"drop the obvious"``: the window of half the view's side with the most of the map is grey.
        share: Fraction of the images that are edited.
        shuffled: Control: the maps of other images.
        kwargs: Arguments of PPSSL.
    """

    def __init__(
        self,
        form: Form = "background out",
        share: float = 0.5,
        shuffled: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice(get_args(Form), form=form)
        check_range("in [0, 1]", share=share)
        self.form, self.share, self.shuffled = form, share, shuffled
        self._maps: ImageBank | None = None

    def on_fit_start(self) -> None:
        """Make the maps."""
        super().on_fit_start()
        teacher = Maps(self.backbone, self.pretrained)
        self._maps = open_image_bank(teacher, self._data_module(), device=self.device)

    def losses(self, batch: Any, **where: Any) -> Any:
        """As PPSSL's, with edited views of the query."""
        if self._maps is None:
            raise RuntimeError("There are no maps before `on_fit_start`.")
        query, *others = batch["views"]
        maps = self._maps.lookup(batch["index"])[:, 0].to(query.device)
        maps = maps.view(-1, CELLS, CELLS)
        if self.shuffled:
            maps = maps.roll(1, dims=0)
        edited = edit(query, in_view(maps, batch["geometry"][:, 0]), self.form, maps)
        chosen = torch.rand(len(query), 1, 1, 1, device=query.device) < self.share
        return super().losses(
            dict(batch) | {"views": [edited.where(chosen, query), *others]}, **where
        )


def in_view(maps: Tensor, geometry: Tensor) -> Tensor:
    """The part of maps ``(B, h, w)`` of whole images that a view shows: ``(B, 1, 14, 14)``.

    Args:
        maps: The maps.
        geometry: ``(B, 5)``, see :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """
    left, top, width, height, flip = geometry.to(maps).unbind(1)
    line = (torch.arange(CELLS, device=maps.device) + 0.5) / CELLS
    across = torch.where(flip[:, None] > 0, 1 - line, line) * width[:, None] + left[:, None]
    down = line * height[:, None] + top[:, None]
    grid = torch.stack(
        [across[:, None].expand(-1, CELLS, -1), down[:, :, None].expand(-1, -1, CELLS)], dim=-1
    )
    return F.grid_sample(
        maps[:, None], 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False
    )


def edit(views: Tensor, seen: Tensor, form: Form, whole: Tensor) -> Tensor:
    """Edited views ``(B, 3, S, S)``.

    Args:
        views: The views, normalised.
        seen: Their maps, ``(B, 1, 14, 14)``.
        form: What is done.
        whole: The maps of the whole images, ``(B, h, w)``.
    """
    size = (views.shape[-2], views.shape[-1])
    if form == "background out":
        median = whole.flatten(1).median(dim=1).values.view(-1, 1, 1, 1)
        fine = F.interpolate(seen, size=size, mode="bilinear", align_corners=False)
        return views.where(fine >= median, views.roll(1, dims=0))
    energy = F.avg_pool2d(seen, CELLS // 2, stride=1)
    best = energy.flatten(1).argmax(dim=1)
    row, column = best // energy.shape[-1], best % energy.shape[-1]
    cells = torch.arange(CELLS, device=views.device)
    inside = [(cells >= at[:, None]) & (cells < at[:, None] + CELLS // 2) for at in (row, column)]
    window = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()
    return views * (1 - F.interpolate(window, size=size))


class Maps(TimmTeacher):
    """Maps of whole images in place of embeddings: ``(B, 196)``, of sum 1."""

    def __init__(self, backbone: str, pretrained: bool | str = True) -> None:
        super().__init__(backbone, pretrained)
        self.name += ", maps of whole images"

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Numbers of a map."""
        return CELLS * CELLS

    @property
    def transform(self) -> Any:  # type: ignore[override]
        """The whole image as a square, normalised."""
        return Stretch(self.input_size, self.mean, self.std)

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Energy of the last feature map."""
        energy = self.encoder.features(pixels.to(self._device)).map.float().square().sum(dim=1)
        energy = F.interpolate(energy[:, None], (CELLS, CELLS), mode="bilinear").flatten(1)
        return energy / energy.sum(dim=1, keepdim=True)


class Stretch:
    """Resize both sides, normalise: ``(3, size, size)`` float32."""

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.size = size
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess an image."""
        square = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        return (
            torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255 - self.mean
        ) / self.std
