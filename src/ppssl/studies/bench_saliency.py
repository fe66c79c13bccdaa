"""What saliency maps show, by where they are taken: the image, a stage, the output (METHOD F4 and "IADM", first look).

``saliency-1``: un-augmented test images as queries, two augmented views of each as its keys, the encoder in evaluation
mode, A* of :func:`ppssl.functional.saliency_target`. A data set with part masks also tells whether a map finds the part
by which a class differs from its nearest one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.functional import saliency_target
from ppssl.module import PPSSL
from ppssl.studies.attributions import (
    KEYS,
    Place,
    Probes,
    draw_probes,
    signed_attributions,
)
from ppssl.utils.config import instantiate
from ppssl.utils.device import resolve_device
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import initial_weights, resolve_seed
from ppssl.utils.results import provenance

__all__ = ["PROTOCOL", "TREATMENTS", "UNITS", "Measured", "bench_saliency", "map_scores", "treated"]

PROTOCOL = "saliency-1"
GAMMA = 2.0
TREATMENTS = ("plain", "debias", "sharpen")
"""A* as it is; with the mean map of all images divided out; to the power :data:`GAMMA`."""
UNITS = {
    "lift": "ratio",
    "focus": "ratio",
    "energy": "fraction",
    "pointing": "fraction",
    "chance": "fraction",
    "reproducibility": "correlation",
    "other_image": "correlation",
    "like_contrast": "correlation",
    "kl_uniform": "nats",
}
Order = Literal["pool_relu", "relu_pool"]


@dataclass(frozen=True)
class Measured:
    """What :func:`bench_saliency` found.

    Attributes:
        content: The results, plain data.
        probes: The images that were looked at.
        attributions: Signed, of the first checkpoint, ``(KEYS, N, h, w)`` by place.
    """

    content: dict[str, Any]
    probes: Probes
    attributions: dict[Place, Tensor]


def bench_saliency(
    checkpoints: Sequence[str | Path],
    data: FineGrainedDataModule | None = None,
    *,
    images: int = 256,
    device: str = "auto",
) -> Measured:
    """Measure the maps of trained encoders and of the random ones that they began as.

    Args:
        checkpoints: Of ``ppssl fit``; several count as seeds.
        data: The data set; ``None``: the first checkpoint's own.
        images: N, how many are looked at. Needs about ``100 N S^2`` bytes for views of S pixels.
        device: Where the encoders run; ``"auto"``: a GPU if there is one.

    Returns:
        Its ``content`` is plain data, for JSON: ``rows`` has one entry for each place (``source``, ``reference``,
        ``target``), ``order``, ``resolution`` (``"equal"``: the output's cells for all; ``"own"``: the place's) and
        ``treatment``, with its ``cells`` and the metrics of :func:`map_scores` ``before`` (one value for each
        different random encoder) and ``after`` (one for each checkpoint).

    Raises:
        UserError: No such checkpoint, or it does not name its data set.
    """
    if images < 2:
        raise ValueError(f"`images` must be >= 2, got {images}.")
    if not checkpoints:
        raise ValueError("`checkpoints` must name one at least.")
    saved = [read_checkpoint(path) for path in checkpoints]
    data = instantiate(saved[0]["ppssl"]["data"]) if data is None else data
    if data is None:
        raise UserError("The checkpoint does not name its data set: give `--data RECIPE`.")
    data.setup()
    probes = draw_probes(data, images)
    chosen = resolve_device(device)
    random = {json.dumps(s["ppssl"]["model"], sort_keys=True): s for s in saved}
    models: list[tuple[str, dict[str, Any], str | Path | None]]
    models = [("before", s, None) for s in random.values()]
    models += [("after", s, p) for s, p in zip(saved, checkpoints, strict=True)]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    shown: dict[Place, Tensor] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("Maps", total=len(models) * KEYS * len(probes.images))
        for when, checkpoint, path in models:
            model = _random(checkpoint) if path is None else PPSSL.load_from_checkpoint(path)
            model.to(chosen).eval()
            data.normalise_with(model.encoder.info.mean, model.encoder.info.std)
            _fill_queue(model, data)
            signed = signed_attributions(
                model, probes, data.normalise, advance=lambda n: progress.advance(task, n)
            )
            shown = shown if shown or when == "before" else signed
            _collect(rows, when, signed, probes.masks)
    return Measured(_content(rows, saved, data, probes), probes, shown)


def _content(
    rows: Mapping[Any, dict[str, Any]], saved: Any, data: FineGrainedDataModule, probes: Probes
) -> dict[str, Any]:
    seen = {name: int(mask.any(dim=(1, 2)).sum()) for name, mask in probes.masks.items()}
    return {
        "schema_version": 1,
        "protocol": PROTOCOL,
        "arguments": {"images": len(probes.images), "checkpoints": len(saved), "gamma": GAMMA},
        "images_with": seen,
        "units": UNITS,
        "config": {"models": [s["ppssl"]["model"] for s in saved], "data": data.config()},
        "seed": resolve_seed(data.seed),
        "rows": list(rows.values()),
        "provenance": provenance(),
    }


def _random(checkpoint: dict[str, Any]) -> PPSSL:
    """The model of a checkpoint before training; where it began from pretrained weights, from random ones."""
    described = checkpoint["ppssl"]["model"]
    init_args = described["init_args"] | {"pretrained": False}
    with initial_weights(init_args.get("init_seed") or 0, "bench"):
        model = instantiate({"class_path": described["class_path"], "init_args": init_args})
        model.on_load_checkpoint(checkpoint)
    return model


@torch.no_grad()
def _fill_queue(model: PPSSL, data: FineGrainedDataModule) -> None:
    """With keys of un-augmented training images, where nothing has filled it yet: ``target="loss"`` needs negatives."""
    loader = data.eval_loader("train") if model.contrastive.needs_prefill() else ()
    for raw in loader:
        batch = data.on_before_batch_transfer(raw, 0)
        x = data.normalise(batch["image"].to(model.device))
        keys = {"views": [x, x], "index": batch["index"].to(model.device)}
        model.contrastive.prefill_batch(keys, seed=0)
        if not model.contrastive.needs_prefill():
            return


def _collect(
    rows: dict[tuple[Any, ...], dict[str, Any]],
    when: str,
    signed: Mapping[Place, Tensor],
    masks: Mapping[str, Tensor],
) -> None:
    """Add one model's metrics to the rows."""
    height, width = next(m for place, m in signed.items() if place.source == "output").shape[2:]
    contrast = signed[Place("contrast", "blur", None)]
    for place, maps in signed.items():
        own = (maps.shape[2], maps.shape[3])
        for resolution, grid in (("equal", (height, width)), ("own", own)):
            control = treated(contrast, grid, "pool_relu", "plain")
            cells = {n: F.adaptive_avg_pool2d(m[:, None], grid)[:, 0] for n, m in masks.items()}
            signs = place.source != "contrast" and place.reference != "gradient"
            both = grid != own and signs  # else the order changes nothing
            orders: tuple[Order, ...] = ("pool_relu", "relu_pool") if both else ("pool_relu",)
            for order in orders:
                for treatment in TREATMENTS:
                    scores = map_scores(treated(maps, grid, order, treatment), control, cells)
                    head = place._asdict() | {"order": order, "resolution": resolution}
                    head |= {"treatment": treatment, "cells": list(grid)}
                    entry: dict[str, Any] = {"before": {}, "after": {}}
                    row = rows.setdefault((place, order, resolution, treatment), head | entry)
                    for name, value in scores.items():
                        row[when].setdefault(name, []).append(value)


def treated(signed: Tensor, grid: tuple[int, int], order: Order, treatment: str) -> Tensor:
    """A* of attributions ``(K, N, H, W)`` on a grid, ``(K, N, gh, gw)``, with one of :data:`TREATMENTS`."""
    flat = signed.flatten(0, 1)
    maps = saliency_target(flat, grid, order=order, sharpen=GAMMA if treatment == "sharpen" else 1)
    if treatment == "debias":
        bias = maps.mean(dim=0).clamp(min=0.01 / maps[0].numel())
        maps = saliency_target(flat, grid, order=order, bias=bias)
    return maps.unflatten(0, signed.shape[:2])


def map_scores(maps: Tensor, control: Tensor, masks: Mapping[str, Tensor]) -> dict[str, float]:
    """How good maps are, averaged over images and keys.

    Args:
        maps: A*, ``(2, N, gh, gw)``: of the same images, with two different keys.
        control: The images' own contrast, likewise; what a map shares with it no model has seen.
        masks: By name, ``(N, gh, gw)`` in [0, 1], the part of each cell that is on it. An image whose mask is empty
            does not count for it.

    Returns:
        ``reproducibility``: correlation, over the cells, of an image's two maps; ``other_image``: of its map with that
        of the image half of them further on, which is the encoder's own bias; ``like_contrast``: of its map with the
        control; ``kl_uniform`` in nats. For each mask:
        ``energy_<name>``, the share of A* that lies on it; ``pointing_<name>``, the chance that a point of the highest
        cell does (of all highest ones, where they tie); ``chance_<name>``, its share of the area, which is what the
        uniform map gets for both; ``lift_<name>``, mean energy over mean chance, and its standard error over images
        ``lift_se_<name>``. With a ``bird`` and a ``part``, ``focus``, the part's lift over the bird's: a map that
        covers the bird evenly has 1.
    """
    first, second = maps.flatten(2).double()
    apart = second.roll(len(second) // 2, dims=0)
    both = maps.flatten(0, 1).flatten(1).double()
    entropy = torch.special.entr(both).sum(dim=1)
    scores = {
        "reproducibility": _correlation(first, second).mean(),
        "other_image": _correlation(first, apart).mean(),
        "like_contrast": _correlation(both, control.flatten(0, 1).flatten(1).double()).mean(),
        "kl_uniform": (np.log(both.shape[1]) - entropy).mean(),
    }
    for name, mask in masks.items():
        cells = mask.flatten(1).double()
        known = cells.sum(dim=1) > 0
        if not known.any():
            continue
        cells, a = cells[known], maps[:, known].flatten(2).double()
        highest = (a == a.amax(dim=2, keepdim=True)).double()
        energy, chance = (a * cells).sum(dim=2).mean(dim=0), cells.mean(dim=1)  # of each image
        lift = energy.mean() / chance.mean()
        spread = (energy - lift * chance).square().mean().sqrt() / chance.mean()
        scores |= {
            f"energy_{name}": energy.mean(),
            f"pointing_{name}": ((highest * cells).sum(dim=2) / highest.sum(dim=2)).mean(),
            f"chance_{name}": chance.mean(),
            f"lift_{name}": lift,
            f"lift_se_{name}": spread / len(energy) ** 0.5,
        }
    if {"lift_part", "lift_bird"} <= scores.keys():
        scores["focus"] = scores["lift_part"] / scores["lift_bird"]
    return {name: float(value) for name, value in scores.items()}


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, row by row of ``(N, cells)``; 0 where a row is constant."""
    a, b = (F.normalize(t - t.mean(dim=1, keepdim=True), dim=1, eps=1e-9) for t in (a, b))
    return (a * b).sum(dim=1)
