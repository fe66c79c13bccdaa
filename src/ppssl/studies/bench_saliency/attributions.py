"""Signed attributions of the same images from several layers: the image itself, each stage, the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ppssl.checkpointing.view import View
from ppssl.data.annotations import object_mask, original_size
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.source import ImageSource
from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.data.transforms import MoCoV2Augmentation, apply_view, center_view
from ppssl.encoder import as_map
from ppssl.functional import Reference, image_gradcam
from ppssl.module import PPSSL
from ppssl.utils.randomness import resolve_seed

__all__ = [
    "KEYS",
    "AttributionMethod",
    "ProbeImages",
    "contrast_map",
    "select_probe_images",
    "signed_attributions",
]

KEYS = 2
"""Number of keys per image; maps with different keys show whether a map is reproducible."""
BATCH = 64
"""Images per batch."""
Target = Literal["similarity", "loss"]
TARGETS: tuple[Target, ...] = get_args(Target)
CONTRAST_REFERENCES: tuple[Reference, ...] = ("zero", "blur")


class AttributionMethod(NamedTuple):
    """Method of an attribution: the attributed layer, the reference and the target.

    Attributes:
        source: ``"image"``, the name of a stage in timm, or ``"output"``, the feature map that is pooled; or
            ``"contrast"``, ``sum_c |x_c - r_c|`` without any model, a control for what a map owes to the image alone.
        reference: Reference r of the image (:ref:`D9 <d9>`); ``None`` for feature maps, whose reference is 0.
        target: The scalar that is differentiated (:ref:`D11 <d11>`); ``None`` for ``"contrast"``.
    """

    source: str
    reference: Reference | None
    target: Target | None


@dataclass(frozen=True)
class ProbeImages:
    """Un-augmented images with their keys and masks.

    Attributes:
        images: ``(N, 3, S, S)`` uint8, the queries.
        keys: ``(KEYS, N, 3, S, S)`` uint8, augmented views of the same images.
        index: ``(N,)`` int64, image numbers.
        masks: Masks by name, ``(N, S, S)`` float32, 0 or 1, all 0 where nothing is visible: ``bird``, the object, and
            ``part``, the part in which the image's class differs from its nearest class. Empty if the data set has no
            annotations.
    """

    images: Tensor
    keys: Tensor
    index: Tensor
    masks: dict[str, Tensor]


def select_probe_images(data: FineGrainedDataModule, count: int) -> ProbeImages:
    """Select evenly spaced images of the test split, or of the training images without a test split."""
    split = "test" if "test" in data.sources else "train"
    source, offset = data.sources[split], data.offset(split)
    items = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int))
    own = data.augmentation
    augmentation = own if isinstance(own, MoCoV2Augmentation) else MoCoV2Augmentation()
    view, seed = View.of_data(data), resolve_seed(data.seed)
    size = view.size
    images, keys, masks = [], [], []
    for i in items.tolist():
        original = source.read(i)
        shape = (original.height, original.width)
        images.append(center_view(original, *view))
        views = []
        for epoch in range(KEYS):
            parameters = augmentation.sample(seed, epoch, i + offset, 1, size=shape, view_size=size)
            views.append(apply_view(original, parameters, size))
        keys.append(torch.stack(views))
        masks.append(_masks(source, i, view))
    names = [name for name in masks[0] if all(name in m for m in masks)]
    return ProbeImages(
        images=torch.stack(images),
        keys=torch.stack(keys, dim=1),
        index=torch.from_numpy(items + offset),
        masks={name: torch.stack([m[name] for m in masks]) for name in names},
    )


def _masks(source: ImageSource, i: int, view: View) -> dict[str, Tensor]:
    """Masks of the centre view: pixels at least half of which are on the bird or the part."""
    annotations = source.annotations(i)
    size = original_size(source, i, annotations)
    coverage = {"bird": object_mask(annotations, size, view)}
    if isinstance(source, SyntheticBirds):
        part = annotations["parts"][source.distinguishing_part(int(source.labels[i]))]
        coverage["part"] = object_mask({"object": part}, size, view)
    return {name: (mask >= 0.5).float() for name, mask in coverage.items() if mask is not None}


def signed_attributions(
    model: PPSSL,
    probes: ProbeImages,
    normalise: Callable[[Tensor], Tensor],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[AttributionMethod, Tensor]:
    """Compute ``sum_c (F - r)_c * d ell / dF_c`` for every layer F (:func:`ppssl.functional.image_gradcam`).

    Args:
        model: Model in evaluation mode, with heads and a filled queue.
        probes: The N images and their keys.
        normalise: Converts uint8 images to the encoder's input.
        advance: Progress callback, called for each batch and key with the number of images.

    Returns:
        Attributions by method, ``(KEYS, N, h, w)`` float32 on the CPU.
    """
    batches: dict[AttributionMethod, list[list[Tensor]]] = {}
    for k in range(KEYS):
        for rows in torch.arange(len(probes.images)).split(BATCH):
            x = normalise(probes.images[rows].to(model.device)).requires_grad_()
            key = normalise(probes.keys[k, rows].to(model.device))
            batch = {"views": [x, key], "index": probes.index[rows].to(model.device)}
            for method, signed in _attributions_of_batch(model, batch).items():
                batches.setdefault(method, [[] for _ in range(KEYS)])[k].append(signed.cpu())
            advance(len(rows))
    attributions: dict[AttributionMethod, Tensor] = {}
    x = normalise(probes.images)
    for reference in CONTRAST_REFERENCES:
        contrast = contrast_map(x, reference).expand(KEYS, -1, -1, -1)
        attributions[AttributionMethod("contrast", reference, None)] = contrast
    for method, by_key in batches.items():
        attributions[method] = torch.stack([torch.cat(maps) for maps in by_key])
    return attributions


def _attributions_of_batch(model: PPSSL, batch: dict[str, Any]) -> dict[AttributionMethod, Tensor]:
    """Attributions of the queries with one key each, ``(B, h, w)`` by method."""
    x, timm_model = batch["views"][0], model.encoder.model
    with torch.enable_grad(), model.encoder.stages() as stages:
        result = model.contrastive(model.encoder, batch, seed=0)
    output = result.features.map
    inner_stages = {name: stage for name, stage in stages.items() if stage is not output}
    scalars: dict[Target, Tensor] = {
        "similarity": torch.einsum("bd,bd->b", result.z, result.key),
        "loss": result.loss,
    }
    attributions: dict[AttributionMethod, Tensor] = {}
    for target in TARGETS:
        layers = [x, *inner_stages.values(), output]
        gradients = torch.autograd.grad(scalars[target].sum(), layers, retain_graph=True)
        for reference in get_args(Reference):
            method = AttributionMethod("image", reference, target)
            attributions[method] = _attribution(x, gradients[0], reference)
        for (name, stage), gradient in zip(inner_stages.items(), gradients[1:-1], strict=True):
            maps = as_map(timm_model, stage), as_map(timm_model, gradient)
            attributions[AttributionMethod(name, None, target)] = _attribution(*maps)
        attributions[AttributionMethod("output", None, target)] = _attribution(
            output, gradients[-1]
        )
    return attributions


def contrast_map(x: Tensor, reference: Reference) -> Tensor:
    """Compute the contrast of images without any model, ``sum_c |x - r|_c``: ``(B, C, H, W) -> (B, H, W)``."""
    channels = x.flatten(0, 1)[:, None]  # each channel as an image of one channel
    contrast = _attribution(channels, torch.ones_like(channels), reference)
    return contrast.abs().view_as(x).sum(dim=1)


def _attribution(values: Tensor, gradient: Tensor, reference: Reference = "zero") -> Tensor:
    """Attribution from a given gradient: :func:`image_gradcam` of the linear function with that gradient."""
    return image_gradcam(
        lambda v: (v * gradient).flatten(1).sum(dim=1), values, reference, rectify=False
    )
