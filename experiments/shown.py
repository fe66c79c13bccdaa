"""Forms of IADM that change what the encoder is shown (docs/method.md, D18, D20 and D21), with their control.

The maps are made once and kept by image: those of :class:`ppssl.ZoomTeacher`, the energy of the starting encoder's last
feature map over the whole original image; or, from random weights, the image's contrast with its local mean; or, as
upper bounds, where a synthetic bird, the parts by which birds differ, or an object is known to be. Each form changes
the query's view of some of the images.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppssl import PPSSL, MoCoV2Augmentation
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.transforms import ViewParameters
from ppssl.losses.background.maps import CELLS, ContrastMaps, whole_square
from ppssl.losses.background.plugin import maps_of_views, on_other_backgrounds, threshold_of
from ppssl.text.image_bank import open_image_bank
from ppssl.text.teachers.timm_teacher import TimmTeacher
from ppssl.text.teachers.zoom import salient_windows
from ppssl.utils import randomness
from ppssl.utils.checks import check_choice, check_range

Form = Literal["zoom", "background out", "drop the obvious"]
Source = Literal["start", "contrast", "known", "parts", "masks"]
Fill = Literal["image", "background"]
WINDOW = 9 / CELLS
"""Side of the window of ``zoom``, as a fraction of the image's."""


class Shown(PPSSL):
    """PPSSL whose query, or both of whose views, are changed.

    Args:
        form: ``"zoom"``: the view is cut out of the window of 9/14 of each side with the most of the map, at the
            original's resolution; ``"background out"``: but for the places with the most of the map, the view shows
            another image of the batch; ``"drop the obvious"``: the window of half the view's side with the most of the
            map is grey.
        share: Fraction of the images that are changed.
        shuffled: Control: the maps of other images.
        keep: Fraction of the image that ``"background out"`` keeps, less where the map is 0.
        fill: What ``"background out"`` shows in the background's place: another ``"image"``, or its ``"background"``,
            with the mean colour of that where the other image's map is high.
        source: Whose maps: of the ``"start"``, of the image's ``"contrast"``, the ``"known"`` bird or its ``"parts"``,
            or ``"masks"`` of photographs.
        masks: File of those masks (experiments/masks.py).
        both: Whether the key sees a changed view as well; not of ``"zoom"``.
        kwargs: Arguments of PPSSL.
    """

    def __init__(
        self,
        form: Form = "background out",
        share: float = 0.5,
        shuffled: bool = False,
        source: Source = "start",
        keep: float = 0.5,
        fill: Fill = "image",
        both: bool = False,
        masks: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice(get_args(Form), form=form)
        check_choice(get_args(Source), source=source)
        check_choice(get_args(Fill), fill=fill)
        check_range("in [0, 1]", share=share, keep=keep)
        self.form, self.share, self.shuffled, self.source = form, share, shuffled, source
        self.keep, self.fill, self.both, self.masks = keep, fill, both, masks
        self._maps: Tensor | None = None

    def on_fit_start(self) -> None:
        """Make the maps."""
        super().on_fit_start()
        data = self._data_module()
        maps = self._make_maps(data)
        self._maps = maps.roll(1, dims=0) if self.shuffled else maps

    def on_train_start(self) -> None:
        """From now on the query of some images is cut out of their window."""
        super().on_train_start()
        if self.form == "zoom" and self._maps is not None:
            images: Any = self.trainer.train_dataloader.dataset  # type: ignore[union-attr]
            images.augmentation = Closer(images.augmentation, windows(self._maps), self.share)

    def _make_maps(self, data: Any) -> Tensor:
        if self.source == "start":
            teacher = Maps(self.backbone, self.pretrained)
            images = open_image_bank(teacher, data, device=self.device).images
            return images[:, 0].float().view(-1, CELLS, CELLS)
        if self.source == "masks":
            paths = data.sources["train"].paths
            names = [path.relative_to(path.parents[1]).as_posix() for path in paths]
            return read_masks(str(self.masks), names)
        return contrast_maps(data) if self.source == "contrast" else known_maps(data, self.source)

    def losses(self, batch: Any, **where: Any) -> Any:
        """As PPSSL's, with edited views of the query."""
        if self._maps is None:
            raise RuntimeError("There are no maps before `on_fit_start`.")
        if self.form == "zoom":
            return super().losses(batch, **where)
        views = list(batch["views"])
        self._maps = self._maps.to(views[0].device)
        maps = self._maps[batch["index"]]  # the training images come first
        for i in range(2 if self.both else 1):
            seen = maps_of_views(maps, batch["geometry"][:, i])
            edited = edit(views[i], seen, self.form, maps, self.keep, self.fill, other=1 + i)
            chosen = torch.rand(len(edited), 1, 1, 1, device=edited.device) < self.share
            views[i] = edited.where(chosen, views[i])
        return super().losses(dict(batch) | {"views": views}, **where)


class Closer(MoCoV2Augmentation):
    """Another augmentation whose query's view is, in a share of the images, cut out of a window of the image.

    Args:
        usual: The augmentation.
        windows: Left and top of each image's window, ``(N, 2)``, as fractions; its sides are :data:`WINDOW`.
        share: Fraction of the images.
    """

    def __init__(self, usual: MoCoV2Augmentation, windows: Tensor, share: float) -> None:
        vars(self).update(vars(usual))
        self.windows, self.share = windows.tolist(), share

    def sample(self, seed: int, epoch: int, index: int, view: int, **size: Any) -> ViewParameters:
        """As usual, but for the place of the query's crop."""
        usual = super().sample(seed, epoch, index, view, **size)
        rng = randomness.generator(seed, "closer", epoch, index)
        if view > 0 or rng.random() >= self.share:
            return usual
        left, top, width, height = usual.crop
        x, y = self.windows[index]
        crop = (x + left * WINDOW, y + top * WINDOW, width * WINDOW, height * WINDOW)
        return replace(usual, crop=crop)


def windows(maps: Tensor) -> Tensor:
    """Left and top, as fractions of the image, of the window with the most of each map ``(N, h, w)``: ``(N, 2)``."""
    return salient_windows(maps, round(WINDOW * CELLS), CELLS).flip(1) / CELLS


def contrast_maps(data: FineGrainedDataModule) -> Tensor:
    """Of the contrast of the training images with their local mean, ``(N, 14, 14)``."""
    source, maps = data.sources["train"], ContrastMaps()
    found = [maps.embed_images(whole_square(source.load(i))[None]) for i in range(len(source))]
    return torch.cat(found).unflatten(1, (CELLS, CELLS))


def known_maps(data: FineGrainedDataModule, source: Literal["known", "parts"]) -> Tensor:
    """Of where the synthetic birds of the training images are, or those parts that are visible, ``(N, 14, 14)``."""
    birds = data.sources["train"]
    known = [birds.annotations(i) for i in range(len(birds))]
    masks = torch.stack(
        [one["object"] if source == "known" else one["parts"].any(dim=0) for one in known]
    )
    return F.adaptive_avg_pool2d(masks[:, None].float(), CELLS)[:, 0]


def read_masks(path: str, names: Sequence[str]) -> Tensor:
    """How much of each cell is object in images with these paths below the folder of the masks: ``(N, 14, 14)``."""
    content = torch.load(path)
    place = {name: i for i, name in enumerate(content["names"])}
    masks = content["masks"][[place[name] for name in names]].float()
    return F.adaptive_avg_pool2d(masks[:, None], CELLS)[:, 0]


def edit(
    views: Tensor,
    seen: Tensor,
    form: Form,
    whole: Tensor,
    keep: float = 0.5,
    fill: Fill = "image",
    other: int = 1,
) -> Tensor:
    """Edited views ``(B, 3, S, S)``.

    Args:
        views: The views, normalised.
        seen: Their maps, ``(B, 1, 14, 14)``.
        form: What is done.
        whole: The maps of the whole images, ``(B, h, w)``.
        keep: Fraction of each whole image that ``"background out"`` keeps.
        fill: What it shows elsewhere.
        other: How many places before an image the one is whose background it gets.
    """
    size = (views.shape[-2], views.shape[-1])
    if form == "background out":
        least = threshold_of(whole, keep)
        least = least.clamp(min=torch.finfo(least.dtype).tiny)  # most of a mask may be 0
        if fill == "background":
            return on_other_backgrounds(views, seen, least, other)
        fine = F.interpolate(seen, size=size, mode="bilinear", align_corners=False)
        return views.where(fine >= least, views.roll(other, dims=0))
    row, column = salient_windows(seen[:, 0], CELLS // 2, CELLS).unbind(1)
    cells = torch.arange(CELLS, device=views.device)
    inside = [(cells >= at[:, None]) & (cells < at[:, None] + CELLS // 2) for at in (row, column)]
    window = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()
    return views * (1 - F.interpolate(window, size=size))


class Maps(TimmTeacher):
    """Maps of whole images in place of embeddings: ``(B, 196)``, of sum 1."""

    def __init__(self, backbone: str, pretrained: bool | str = True) -> None:
        super().__init__(backbone, pretrained=pretrained)
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
