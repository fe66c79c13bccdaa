"""Saliency maps of an encoder or a classifier on any images: image GradCAM, layer Grad-CAM, and IADM's attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppssl.checkpointing.files import restore
from ppssl.checkpointing.module import TrainingModule
from ppssl.checkpointing.view import View
from ppssl.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from ppssl.data.transforms import center_view
from ppssl.encoder import Encoder, evaluation_mode
from ppssl.functional import Reference, image_gradcam, saliency_target
from ppssl.inference.image_files import ImageFiles, image_files
from ppssl.losses.iadm.output_gradcam import find_timm_model, output_gradcam
from ppssl.utils.device import on_device, placement
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import PATH_TYPES, AnyPath, expand, writing
from ppssl.utils.timm_features import check_image_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Explanation",
    "ImageFiles",
    "Objective",
    "View",
    "explain",
    "explain_in_batches",
    "explain_views",
    "image_files",
]

Objective = Callable[[Tensor], Tensor]
"""A differentiable score of each normalised image: ``(B, 3, H, W) -> (B,)``."""

BATCH = 16
"""Images per batch."""
CELL = 8
"""Height and width in pixels of a cell of the pooled map."""


@dataclass(frozen=True)
class Explanation:
    """Saliency maps of several images.

    Attributes:
        names: Name of each image, for its picture (:meth:`ImageFiles.picture_names`).
        images: The images after resizing and cropping, ``(n, 3, S, S)`` uint8.
        maps: Saliency maps by title, ``(n, h, w)`` float32 >= 0, of different resolutions.
    """

    names: list[str]
    images: Tensor
    maps: dict[str, Tensor]

    @classmethod
    def join(cls, parts: Sequence[Explanation]) -> Explanation:
        """Return the explanations of one or more batches as one."""
        titles = parts[0].maps
        return cls(
            names=[name for part in parts for name in part.names],
            images=torch.cat([part.images for part in parts]),
            maps={title: torch.cat([part.maps[title] for part in parts]) for title in titles},
        )

    def figure(self) -> Figure:
        """Draw one row per image: the image, and each map over it."""
        from ppssl.utils.plots.saliency import saliency_panel

        return saliency_panel(self.images, self.maps)

    def save(self, folder: AnyPath) -> list[Path]:
        """Write one PNG per image, ``<name>.png``; existing files are kept (``<name>-2.png`` and so on).

        Raises:
            UserError: The folder cannot be written.
        """
        folder = expand(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for i, name in enumerate(self.names):
            maps = {title: values[i : i + 1] for title, values in self.maps.items()}
            single = Explanation([name], self.images[i : i + 1], maps)
            path = _unused_path(folder, name)
            with writing(path):
                single.figure().savefig(path, dpi=150)
            paths.append(path)
        return paths


def explain(
    model: nn.Module | AnyPath,
    images: AnyPath | Sequence[AnyPath],
    *,
    objective: Objective | None = None,
    class_index: int | None = None,
    layer: nn.Module | None = None,
    reference: Reference = "blur",
    view: View | None = None,
    device: str = "auto",
) -> Explanation:
    """Compute saliency maps of images: image GradCAM, Grad-CAM at the output layer, and IADM's attention.

    The maps show what raises a score. The default score is the cosine similarity of an image's embedding with the
    embedding of the mirrored image; a contrastive score would need a key, which a single image does not have.

    Args:
        model: A checkpoint of ``ppssl fit``, :class:`ppssl.PPSSL`, a timm model, or any module; used in evaluation
            mode.
        images: Image files, and folders of image files.
        objective: The score to explain; it must call the model exactly once.
        class_index: Explain this logit of ``model(images)``, ``(B, classes)``, instead.
        layer: The layer of Grad-CAM, with an output of ``(B, C, h, w)``; ``None``: the last layer of the timm model
            inside ``model``. If there is neither, that map is left out.
        reference: Reference r of image GradCAM (:func:`ppssl.functional.image_gradcam`).
        view: Preprocessing of the images; ``None``: as in the evaluation of a model of ppssl, else 224 pixels.
        device: Device of the model; ``"auto"``: a GPU if there is one.

    Returns:
        The maps ``image GradCAM``, at full resolution; ``pooled``, the same pooled to cells of 8 pixels;
        ``<plugin> branch`` for each plugin with an attention map; ``output Grad-CAM``, by the grad-cam library.

    Raises:
        UserError: A file does not exist or cannot be read, there are no images, or the model is not in float32.
    """
    source = image_files([images] if isinstance(images, PATH_TYPES) else images)
    if not isinstance(model, nn.Module):
        model = restore(nn.Module, model, {})
    if view is None:
        view = model.evaluation_view if isinstance(model, TrainingModule) else View()
    parts = list(
        explain_in_batches(
            model,
            source,
            view=view,
            objective=objective,
            class_index=class_index,
            layer=layer,
            reference=reference,
            device=device,
        )
    )
    return Explanation.join(parts)


def explain_in_batches(
    model: nn.Module,
    source: ImageFiles,
    *,
    view: View,
    objective: Objective | None = None,
    class_index: int | None = None,
    layer: nn.Module | None = None,
    reference: Reference = "blur",
    device: str = "auto",
) -> Iterator[Explanation]:
    """Yield the explanations of :func:`explain` for ``BATCH`` images at a time.

    Raises:
        UserError: An image cannot be read, or the model is not in float32.
    """
    if objective is not None and class_index is not None:
        raise ArgumentError(
            "`objective` and `class_index` exclude each other: they define different scores."
        )
    if (dtype := placement(model)[1]) != torch.float32:
        raise UserError(
            f"`explain` computes in float32, and the weights are in {dtype}: call the model's `float()`."
        )
    options: dict[str, Any] = {"objective": objective, "class_index": class_index, "layer": layer}
    names, source.bit_depth = source.picture_names(), view.bit_depth
    with on_device(model, device) as run_device, evaluation_mode(model):
        check_image_size(model, view.size)
        for part in torch.arange(len(source)).split(BATCH):
            rows = part.tolist()
            views = [center_view(source.read(i), *view) for i in rows]
            batch = torch.stack(views)
            maps = explain_views(model, batch.to(run_device), reference=reference, **options)
            on_cpu = {title: values.cpu() for title, values in maps.items()}
            yield Explanation([names[i] for i in rows], batch, on_cpu)


def explain_views(
    model: nn.Module,
    views: Tensor,
    *,
    objective: Objective | None = None,
    class_index: int | None = None,
    layer: nn.Module | None = None,
    reference: Reference = "blur",
) -> dict[str, Tensor]:
    """Compute the maps of :func:`explain` for one batch of images that are resized and cropped.

    Args:
        model: The model, in evaluation mode.
        views: ``(B, 3, S, S)`` uint8, on the device of the model.
        objective: See :func:`explain`, as for all that follow.
        class_index: Index of a logit.
        layer: The layer of Grad-CAM.
        reference: Reference of image GradCAM.

    Returns:
        Maps by title, ``(B, h, w)`` float32 >= 0, of different resolutions.
    """
    x = _normalise(views, find_timm_model(model))
    return _maps(model, _score(model, x, objective, class_index), x, layer, reference)


def _score(
    model: nn.Module, x: Tensor, objective: Objective | None, class_index: int | None
) -> Objective:
    """The objective, a logit, or the similarity with the mirrored images."""
    if objective is not None:
        return objective
    if class_index is not None:
        return partial(_logit, model, class_index)
    with torch.no_grad():
        mirrored = model(x.flip(3)).float()
    return lambda images: F.cosine_similarity(model(images).float(), mirrored, dim=1)


def _logit(model: nn.Module, class_index: int, images: Tensor) -> Tensor:
    logits = model(images)
    if logits.ndim != 2 or not 0 <= class_index < logits.shape[1]:
        raise ArgumentError(
            f"`class_index` must be in [0, classes) of the model's output (B, classes) = {tuple(logits.shape)}, "
            f"got {class_index}."
        )
    return logits[:, class_index]


def _maps(
    model: nn.Module, score: Objective, x: Tensor, layer: nn.Module | None, reference: Reference
) -> dict[str, Tensor]:
    """All maps of one batch, by title."""
    signed = image_gradcam(score, x, reference, rectify=False)
    cells = (-(-x.shape[2] // CELL), -(-x.shape[3] // CELL))
    maps = {"image GradCAM": signed.relu(), "pooled": saliency_target(signed, cells)}
    encoder: Any = getattr(model, "encoder", None)
    if isinstance(encoder, Encoder):
        with torch.no_grad():
            feature_map = encoder.features(x).map
            for name, plugin in dict(getattr(model, "plugins", {})).items():
                if hasattr(plugin, "attention"):
                    maps[f"{name} branch"] = plugin.attention(feature_map)
    output = output_gradcam(model, score, x, layer)
    if output is not None:
        maps["output Grad-CAM"] = output
    return maps


def _normalise(images: Tensor, timm_model: Any) -> Tensor:
    cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} | dict(
        getattr(timm_model, "pretrained_cfg", None) or {}
    )
    return Normalisation(cfg["mean"], cfg["std"])(images)


def _unused_path(folder: Path, stem: str) -> Path:
    """A PNG path that does not exist yet."""
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path
