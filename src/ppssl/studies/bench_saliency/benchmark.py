"""Benchmark of saliency maps by layer: the image, each stage, the output (:ref:`F4 <f4>`), by ``saliency-1``.

``saliency-1``: un-augmented test images as queries, two augmented views of each as keys, the encoder in evaluation
mode, maps A* of :func:`ppssl.functional.saliency_target`. If the data set has part masks, the benchmark also measures
whether a map highlights the part by which a class differs from its nearest class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.module import PPSSL
from ppssl.studies.bench_saliency.attributions import (
    KEYS,
    AttributionMethod,
    ProbeImages,
    select_probe_images,
    signed_attributions,
)
from ppssl.studies.bench_saliency.foreground import grabcut
from ppssl.studies.bench_saliency.scores import (
    GAMMA,
    TREATMENTS,
    UNITS,
    Order,
    map_scores,
    treated_maps,
)
from ppssl.utils.checks import check_choice
from ppssl.utils.device import resolve_device
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.instantiate import instantiate
from ppssl.utils.randomness import initial_weights, resolve_seed
from ppssl.utils.results import provenance

__all__ = ["PROTOCOL", "SaliencyBenchmark", "bench_saliency"]

PROTOCOL = "saliency-1"
Phase = Literal["before", "after"]
"""Before or after training."""


@dataclass(frozen=True)
class SaliencyBenchmark:
    """Result of :func:`bench_saliency`.

    Attributes:
        content: The results as plain data.
        probes: The images.
        attributions: Signed attributions of the first checkpoint by method, ``(KEYS, N, h, w)``.
    """

    content: dict[str, Any]
    probes: ProbeImages
    attributions: dict[AttributionMethod, Tensor]


def bench_saliency(
    checkpoints: Sequence[str | Path],
    data: FineGrainedDataModule | None = None,
    *,
    images: int = 256,
    before: Literal["random", "start"] = "random",
    foreground: Literal["annotated", "grabcut"] = "annotated",
    device: str = "auto",
) -> SaliencyBenchmark:
    """Score the saliency maps of trained encoders, and of the same encoders before training.

    Args:
        checkpoints: Checkpoints of ``ppssl fit``; several checkpoints count as seeds.
        data: The data set; ``None``: the data set of the first checkpoint.
        images: Number of images N, >= 2. Needs about ``100 N S^2`` bytes for views of S pixels.
        before: What is before: ``"random"`` weights, or those that the training began with (``"start"``).
        foreground: Where the object is: as ``"annotated"``, if it is; or as OpenCV's GrabCut estimates it
            (:mod:`ppssl.studies.bench_saliency.foreground`), for photographs that are cropped to the object.
        device: Device of the encoders; ``"auto"``: a GPU if there is one.

    Returns:
        The benchmark. Its ``content`` is plain data for JSON: ``rows`` has one entry for each attribution method
        (``source``, ``reference``, ``target``), ``order``, ``resolution`` (``"equal"``: the grid of the output for all
        layers; ``"own"``: the layer's grid) and ``treatment``, with the grid as ``cells`` and the scores of
        :func:`~ppssl.studies.bench_saliency.scores.map_scores` ``before`` (one value per different encoder) and
        ``after`` training (one value per checkpoint).

    Raises:
        UserError: A checkpoint does not exist, or the first one names no data set.
    """
    if images < 2:
        raise ArgumentError(f"`images` must be >= 2, got {images}.")
    if not checkpoints:
        raise ArgumentError("`checkpoints` must contain at least one checkpoint.")
    check_choice(("random", "start"), before=before)
    check_choice(("annotated", "grabcut"), foreground=foreground)
    contents = [_read_pretraining(path) for path in checkpoints]
    data = _data_of(contents[0], checkpoints[0]) if data is None else data
    data.setup()
    probes = select_probe_images(data, images)
    if foreground == "grabcut":
        probes = replace(probes, masks={"bird": grabcut(probes.images)})
    models = _models_to_score(checkpoints, contents)
    started = before == "start"
    rows, first = _score(models, probes, data, started=started, device=resolve_device(device))
    chosen = {"before": before, "foreground": foreground}
    results = _results_as_dict(rows, contents, data, probes, chosen)
    return SaliencyBenchmark(results, probes, first)


def _score(
    models: Sequence[tuple[Phase, dict[str, Any], str | Path | None]],
    probes: ProbeImages,
    data: FineGrainedDataModule,
    *,
    started: bool,
    device: torch.device,
) -> tuple[dict[tuple[Any, ...], dict[str, Any]], dict[AttributionMethod, Tensor]]:
    """Rows of the scores of all models, and the attributions of the first trained one."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    first_trained: dict[AttributionMethod, Tensor] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("Maps", total=len(models) * KEYS * len(probes.images))
        for phase, content, path in models:
            trained = None if path is None else PPSSL.load_from_checkpoint(path)
            model = trained or _model_before(content, pretrained=started)
            model.to(device).eval()
            data.normalise_with(model.encoder.info.mean, model.encoder.info.std)
            _fill_queue(model, data)
            signed = signed_attributions(
                model, probes, data.normalise, advance=lambda n: progress.advance(task, n)
            )
            if phase == "after" and not first_trained:
                first_trained = signed
            _add_scores(rows, phase, signed, probes.masks)
    return rows, first_trained


def _read_pretraining(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of a contrastive model, whose gradients the maps are."""
    content = read_checkpoint(path)
    if not any(name.startswith("contrastive.") for name in content["state_dict"]):
        raise UserError(
            f"{path} is of a classifier, which has no contrastive loss: give checkpoints of PPSSL, such as the one "
            "that it began with."
        )
    return content


def _data_of(content: dict[str, Any], path: str | Path) -> FineGrainedDataModule:
    """The data set of a checkpoint."""
    data = instantiate(content["ppssl"]["data"], "data")
    if data is None:
        raise UserError(f"The checkpoint {path} names no data set: give one with `--data RECIPE`.")
    return data


def _models_to_score(
    checkpoints: Sequence[str | Path], contents: Sequence[dict[str, Any]]
) -> list[tuple[Phase, dict[str, Any], str | Path | None]]:
    """Phase, checkpoint content and path of each model; the path is ``None`` for a random model.

    Checkpoints with the same model configuration have the same random model, which is scored once.
    """
    different = {json.dumps(c["ppssl"]["model"], sort_keys=True): c for c in contents}
    models: list[tuple[Phase, dict[str, Any], str | Path | None]] = []
    for content in different.values():
        models.append(("before", content, None))
    for content, path in zip(contents, checkpoints, strict=True):
        models.append(("after", content, path))
    return models


def _results_as_dict(
    rows: Mapping[Any, dict[str, Any]],
    contents: Sequence[dict[str, Any]],
    data: FineGrainedDataModule,
    probes: ProbeImages,
    chosen: Mapping[str, str],
) -> dict[str, Any]:
    visible = {name: int(mask.any(dim=(1, 2)).sum()) for name, mask in probes.masks.items()}
    return {
        "schema_version": 1,
        "protocol": PROTOCOL,
        "arguments": {
            "images": len(probes.images),
            "checkpoints": len(contents),
            "gamma": GAMMA,
            **chosen,
        },
        "images_with": visible,
        "units": UNITS,
        "config": {"models": [c["ppssl"]["model"] for c in contents], "data": data.config()},
        "seed": resolve_seed(data.seed),
        "rows": list(rows.values()),
        "provenance": provenance(),
    }


def _model_before(checkpoint: dict[str, Any], *, pretrained: bool) -> PPSSL:
    """The model of a checkpoint before its training, or with random weights, whatever it began with."""
    config = checkpoint["ppssl"]["model"]
    init_args = config["init_args"] | ({} if pretrained else {"pretrained": False})
    with initial_weights(init_args.get("init_seed") or 0, "bench"):
        model = instantiate({"class_path": config["class_path"], "init_args": init_args})
        model.on_load_checkpoint(checkpoint)
    return model


@torch.no_grad()
def _fill_queue(model: PPSSL, data: FineGrainedDataModule) -> None:
    """Fill an empty queue with keys of un-augmented training images: the target ``"loss"`` needs negatives."""
    if not model.contrastive.needs_prefill():
        return
    for raw in data.eval_loader("train"):
        batch = data.on_before_batch_transfer(raw, 0)
        x = data.normalise(batch["image"].to(model.device))
        keys = {"views": [x, x], "index": batch["index"].to(model.device)}
        model.contrastive.prefill_batch(keys, seed=0)
        if not model.contrastive.needs_prefill():
            return


def _add_scores(
    rows: dict[tuple[Any, ...], dict[str, Any]],
    phase: Phase,
    attributions: Mapping[AttributionMethod, Tensor],
    masks: Mapping[str, Tensor],
) -> None:
    """Add the scores of one model to the rows."""
    output_grid = next(_grid(m) for method, m in attributions.items() if method.source == "output")
    contrast = attributions[AttributionMethod("contrast", "blur", None)]
    for method, signed in attributions.items():
        for resolution, grid in (("equal", output_grid), ("own", _grid(signed))):
            control = treated_maps(contrast, grid, "pool_relu", "plain")
            cells = {n: F.adaptive_avg_pool2d(m[:, None], grid)[:, 0] for n, m in masks.items()}
            for order in _orders(method, signed, grid):
                for treatment in TREATMENTS:
                    maps = treated_maps(signed, grid, order, treatment)
                    row = rows.setdefault(
                        (method, order, resolution, treatment),
                        method._asdict()
                        | {"order": order, "resolution": resolution, "treatment": treatment}
                        | {"cells": list(grid), "before": {}, "after": {}},
                    )
                    for name, value in map_scores(maps, control, cells).items():
                        row[phase].setdefault(name, []).append(value)


def _orders(method: AttributionMethod, signed: Tensor, grid: tuple[int, int]) -> tuple[Order, ...]:
    """The orders that give different maps: with pooling, and with attributions of both signs."""
    has_both_signs = method.source != "contrast" and method.reference != "gradient"
    if grid != _grid(signed) and has_both_signs:
        return ("pool_relu", "relu_pool")
    return ("pool_relu",)


def _grid(maps: Tensor) -> tuple[int, int]:
    """Height and width of maps ``(KEYS, N, h, w)``."""
    return maps.shape[2], maps.shape[3]
