"""Signed attributions of the same images, wherever GradCAM can be taken: of the image, each stage, the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ppssl.data.annotations import object_mask
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.source import ImageSource
from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.data.transforms import MoCoV2Augmentation, apply_view, center_view
from ppssl.encoder import as_map
from ppssl.functional import Reference, image_gradcam
from ppssl.module import PPSSL
from ppssl.utils.randomness import resolve_seed

__all__ = ["KEYS", "Place", "Probes", "contrast_map", "draw_probes", "signed_attributions"]

KEYS = 2
"""Different keys of each image: whether its maps are reproducible shows when the key is another one."""
BATCH = 64
Target = Literal["similarity", "loss"]
TARGETS: tuple[Target, ...] = get_args(Target)
CONTRAST_REFERENCES: tuple[Reference, ...] = ("zero", "blur")


class Place(NamedTuple):
    """What an attribution is of, and of what.

    Attributes:
        source: ``"image"``, a stage's name in timm, or ``"output"``, the feature map that is pooled; ``"contrast"``: no
            model at all, ``sum_c |x_c - r_c|``, which tells what of an image's map is the image's own doing.
        reference: For the image (METHOD D9); ``None`` elsewhere: feature maps have a zero of their own.
        target: ell (D11).
    """

    source: str
    reference: Reference | None
    target: Target | None


@dataclass(frozen=True)
class Probes:
    """Images, un-augmented, with their keys' views and what is known of them.

    Attributes:
        images: ``(N, 3, S, S)`` uint8, the queries.
        keys: ``(KEYS, N, 3, S, S)`` uint8, augmented views of the same images.
        index: ``(N,)`` int64.
        masks: Where the ``bird`` (any object) and the ``part`` in which its class differs from the nearest one are,
            ``(N, S, S)`` float32, 0 or 1, all 0 where it is not seen; only what the data set knows.
    """

    images: Tensor
    keys: Tensor
    index: Tensor
    masks: dict[str, Tensor]


def draw_probes(data: FineGrainedDataModule, count: int) -> Probes:
    """Evenly spaced images of the test split, or of the training images where there is none."""
    split = "test" if "test" in data.sources else "train"
    source, offset = data.sources[split], data.offset(split)
    items = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int))
    augmentation = data.augmentation or MoCoV2Augmentation()
    size, seed = data.image_size, resolve_seed(data.seed)
    images, keys, masks = [], [], []
    for i in items.tolist():
        original = source.read(i)
        shape = (original.height, original.width)
        images.append(center_view(original, size, data.eval_crop))
        drawn = [
            augmentation.sample(seed, epoch, i + offset, 1, size=shape, view_size=size)
            for epoch in range(KEYS)
        ]
        keys.append(torch.stack([apply_view(original, parameters, size) for parameters in drawn]))
        masks.append(_masks(source, i, original.size, size, data.eval_crop))
    known = [name for name in masks[0] if all(name in m for m in masks)]
    return Probes(
        images=torch.stack(images),
        keys=torch.stack(keys, dim=1),
        index=torch.from_numpy(items + offset),
        masks={name: torch.stack([m[name] for m in masks]) for name in known},
    )


def _masks(
    source: ImageSource, i: int, original: tuple[int, int], size: int, crop: float
) -> dict[str, Tensor]:
    """Pixels of the centre view, at least half of each on the bird or the part."""
    known = source.annotations(i)
    soft = {"bird": object_mask(known, original, size, crop)}
    if isinstance(source, SyntheticBirds):
        part = known["parts"][source.distinguishing_part(int(source.labels[i]))]
        soft["part"] = object_mask({"object": part}, original, size, crop)
    return {name: (mask >= 0.5).float() for name, mask in soft.items() if mask is not None}


def signed_attributions(
    model: PPSSL,
    probes: Probes,
    normalise: Callable[[Tensor], Tensor],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[Place, Tensor]:
    """``sum_c (F - r)_c * d ell / dF_c`` of every place F (:func:`ppssl.functional.image_gradcam`).

    Args:
        model: In evaluation mode, with heads and a queue.
        probes: N images.
        normalise: From uint8 to what the encoder takes.
        advance: Called with the number of images done, for each key.

    Returns:
        ``(KEYS, N, h, w)`` float32 on the CPU, by place.
    """
    found: dict[Place, list[list[Tensor]]] = {}
    for k in range(KEYS):
        for rows in torch.arange(len(probes.images)).split(BATCH):
            x = normalise(probes.images[rows].to(model.device)).requires_grad_()
            key = normalise(probes.keys[k, rows].to(model.device))
            batch = {"views": [x, key], "index": probes.index[rows].to(model.device)}
            for place, signed in _of_batch(model, batch).items():
                found.setdefault(place, [[] for _ in range(KEYS)])[k].append(signed.cpu())
            advance(len(rows))
    x = normalise(probes.images)
    contrast = {Place("contrast", r, None): contrast_map(x, r) for r in CONTRAST_REFERENCES}
    maps = {place: torch.stack([torch.cat(b) for b in lists]) for place, lists in found.items()}
    return {place: m.expand(KEYS, -1, -1, -1) for place, m in contrast.items()} | maps


def _of_batch(model: PPSSL, batch: dict[str, Any]) -> dict[Place, Tensor]:
    x, timm_model = batch["views"][0], model.encoder.model
    with torch.enable_grad(), model.encoder.stages() as stages:
        result = model.contrastive(model.encoder, batch, seed=0)
    output = result.features.map
    hidden = {name: stage for name, stage in stages.items() if stage is not output}
    objectives: dict[Target, Tensor] = {
        "similarity": torch.einsum("bd,bd->b", result.z, result.key),
        "loss": result.loss,
    }
    found: dict[Place, Tensor] = {}
    for target in TARGETS:
        wanted = [x, *hidden.values(), output]
        at_x, *at_stages, at_output = torch.autograd.grad(
            objectives[target].sum(), wanted, retain_graph=True
        )
        for reference in get_args(Reference):
            found[Place("image", reference, target)] = _signed(x, at_x, reference)
        for (name, stage), gradient in zip(hidden.items(), at_stages, strict=True):
            maps = as_map(timm_model, stage), as_map(timm_model, gradient)
            found[Place(name, None, target)] = _signed(*maps)
        found[Place("output", None, target)] = _signed(output, at_output)
    return found


def contrast_map(x: Tensor, reference: Reference) -> Tensor:
    """``sum_c |x - r|_c`` of images ``(B, C, H, W)``, ``(B, H, W)``: a map in which no model takes part."""
    channels = x.flatten(0, 1)[:, None]  # each an image of its own
    return _signed(channels, torch.ones_like(channels), reference).abs().view_as(x).sum(dim=1)


def _signed(values: Tensor, gradient: Tensor, reference: Reference = "zero") -> Tensor:
    """One backward pass serves every place: here the gradient is that of a linear function."""
    return image_gradcam(
        lambda v: (v * gradient).flatten(1).sum(dim=1), values, reference, rectify=False
    )
