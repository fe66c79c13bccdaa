"""What an encoder or a classifier looks at in a user's own images: maps of them, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppssl.checkpointing.files import read_checkpoint, restore
from ppssl.data.datamodule import IMAGENET_MEAN, IMAGENET_STD
from ppssl.data.files import FileSource
from ppssl.data.sets.folder import FolderSource
from ppssl.data.source import UNKNOWN
from ppssl.data.transforms import center_view
from ppssl.encoder import Encoder, evaluation_mode
from ppssl.functional import Reference, image_gradcam, saliency_target
from ppssl.losses.iadm.output_gradcam import find_timm_model, output_gradcam
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError, similar_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation", "Objective", "View", "explain", "image_files"]

Objective = Callable[[Tensor], Tensor]
"""A score of each image, of normalised images: ``(B, 3, H, W) -> (B,)``, differentiable."""

BATCH = 16
CELL = 8
"""Height and width in pixels of the cells of the pooled map."""


@dataclass(frozen=True)
class View:
    """How an image becomes the encoder's input: ``size`` in pixels, ``crop`` of the short side, as in evaluation."""

    size: int = 224
    crop: float = 0.875

    @classmethod
    def of(cls, path: str | Path) -> View:
        """That of the data set which a checkpoint was trained on, where it names one."""
        data = (read_checkpoint(path)["ppssl"]["data"] or {}).get("init_args", {})
        return cls(data.get("image_size", cls.size), data.get("eval_crop", cls.crop))


@dataclass(frozen=True)
class Explanation:
    """Maps of some images.

    Attributes:
        names: What each image is called.
        images: What the encoder saw of them, ``(n, 3, S, S)`` uint8.
        maps: By title, ``(n, h, w)`` float32 >= 0, of different resolutions.
    """

    names: list[str]
    images: Tensor
    maps: dict[str, Tensor]

    def figure(self) -> Figure:
        """A row for each image: itself, and each map over it."""
        from ppssl.utils.plots.saliency import saliency_panel

        return saliency_panel(self.images, self.maps)

    def save(self, folder: str | Path) -> list[Path]:
        """A PNG for each image, ``<name>.png``, or ``<name>-2.png`` and so on: no file that is there is overwritten."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for i, name in enumerate(self.names):
            one = {title: values[i : i + 1] for title, values in self.maps.items()}
            paths.append(_free(folder, Path(name).stem))
            figure = Explanation([name], self.images[i : i + 1], one).figure()
            figure.savefig(paths[-1], dpi=150)
        return paths


def explain(
    model: nn.Module | str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    objective: Objective | None = None,
    class_index: int | None = None,
    layer: nn.Module | None = None,
    reference: Reference = "blur",
    view: View | None = None,
    device: str = "auto",
) -> Explanation:
    """What raises a score of images: GradCAM of the image itself and at the output layer, and what IADM attends to.

    A single image has no key. Without an objective the score is the cosine of its embedding with that of its mirrored
    copy: what raises it is what the encoder knows the image by.

    Args:
        model: A checkpoint of ``ppssl fit``, :class:`ppssl.PPSSL`, a timm model, or any module; in evaluation mode.
        images: Files, and folders of them.
        objective: The score to explain. It runs the model once.
        class_index: Explain this logit of ``model(images)``, ``(B, classes)``.
        layer: Whose output Grad-CAM is taken at, ``(B, C, h, w)``; ``None``: the last one of the timm model inside.
            A model without either has no such map.
        reference: r of the image's GradCAM (:func:`ppssl.functional.image_gradcam`).
        view: How images become input; ``None``: as in the evaluation of the checkpoint, else 224 pixels.
        device: Where the model runs; ``"auto"``: a GPU if there is one.

    Returns:
        ``image GradCAM``, at full resolution; the same ``pooled`` to cells of 8 pixels; ``<plugin> branch`` where a
        plugin of the model attends to places; ``output Grad-CAM``, by the grad-cam library.

    Raises:
        UserError: No such file, an image that cannot be read, no images, or no checkpoint.
    """
    if objective is not None and class_index is not None:
        raise ValueError("`objective` and `class_index` are two scores: give one of them.")
    source = image_files([images] if isinstance(images, str | Path) else images)
    if not isinstance(model, nn.Module):
        view = View.of(model) if view is None else view
        model = restore(nn.Module, model, {})
    view = View() if view is None else view
    parts = []
    with on_device(model, device) as chosen, evaluation_mode(model):
        for rows in torch.arange(len(source)).split(BATCH):
            views = [center_view(source.read(i), view.size, view.crop) for i in rows.tolist()]
            batch = torch.stack(views)
            x = _normalise(batch.to(chosen), find_timm_model(model))
            score = _score(model, x, objective, class_index)
            maps = _maps(model, score, x, layer, reference)
            parts.append((batch, {title: values.cpu() for title, values in maps.items()}))
    return Explanation(
        names=[source.name(i) for i in range(len(source))],
        images=torch.cat([batch for batch, _ in parts]),
        maps={title: torch.cat([maps[title] for _, maps in parts]) for title in parts[0][1]},
    )


def image_files(paths: Sequence[str | Path]) -> FileSource:
    """The image files among files and folders, each once, in their order.

    Raises:
        UserError: No such file, or a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"No such image or folder: {path}{similar_path(path)}.")
        found += FolderSource(path).paths if path.is_dir() else [path]
    if not found:
        raise UserError("No images given: name files, or folders of them.")
    unique = list(dict.fromkeys(found))
    return FileSource(Path(), unique, np.full(len(unique), UNKNOWN), [])


def _score(
    model: nn.Module, x: Tensor, objective: Objective | None, class_index: int | None
) -> Objective:
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
        raise ValueError(
            f"`class_index` must be one of the model's outputs {tuple(logits.shape[1:])}, got {class_index}."
        )
    return logits[:, class_index]


def _maps(
    model: nn.Module, score: Objective, x: Tensor, layer: nn.Module | None, reference: Reference
) -> dict[str, Tensor]:
    signed = image_gradcam(score, x, reference, rectify=False)
    cells = (-(-x.shape[2] // CELL), -(-x.shape[3] // CELL))
    maps = {"image GradCAM": signed.relu(), "pooled": saliency_target(signed, cells)}
    encoder: Any = getattr(model, "encoder", None)
    if isinstance(encoder, Encoder):
        with torch.no_grad():
            feature_map = encoder.features(x).map
            for name, plugin in dict(getattr(model, "plugins", {})).items():
                attention = plugin.attention(feature_map)
                maps |= {} if attention is None else {f"{name} branch": attention}
    output = output_gradcam(model, score, x, layer)
    return maps if output is None else maps | {"output Grad-CAM": output}


def _normalise(images: Tensor, timm_model: Any) -> Tensor:
    cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} | dict(
        getattr(timm_model, "pretrained_cfg", None) or {}
    )
    mean, std = (torch.tensor(cfg[k], device=images.device).view(-1, 1, 1) for k in ("mean", "std"))
    return (images.float() / 255 - mean) / std


def _free(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path
