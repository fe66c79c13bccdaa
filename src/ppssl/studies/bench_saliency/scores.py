"""Scores of saliency maps: reproducibility, agreement with masks, similarity to the image's contrast, flatness."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl.functional import saliency_target

__all__ = ["GAMMA", "TREATMENTS", "UNITS", "Order", "map_scores", "treated_maps"]

GAMMA = 2.0
TREATMENTS = ("plain", "debias", "sharpen")
"""``plain``: A*; ``debias``: A* divided by the mean map of all images; ``sharpen``: A* to the power :data:`GAMMA`."""
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
"""Units of the scores; of a score of a mask by the part of its name before ``_<mask>``."""
Order = Literal["pool_relu", "relu_pool"]


def treated_maps(signed: Tensor, grid: tuple[int, int], order: Order, treatment: str) -> Tensor:
    """Compute A* on a grid from signed attributions, ``(K, N, H, W) -> (K, N, gh, gw)``, with a treatment."""
    flat = signed.flatten(0, 1)
    maps = saliency_target(flat, grid, order=order, sharpen=GAMMA if treatment == "sharpen" else 1)
    if treatment == "debias":
        bias = maps.mean(dim=0).clamp(min=0.01 / maps[0].numel())
        maps = saliency_target(flat, grid, order=order, bias=bias)
    return maps.unflatten(0, signed.shape[:2])


def map_scores(maps: Tensor, control: Tensor, masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the scores of maps, averaged over images and keys.

    Args:
        maps: A*, ``(2, N, gh, gw)``: maps of the same images with two different keys.
        control: The contrast of the same images, ``(2, N, gh, gw)``, which is independent of any model.
        masks: Masks by name, ``(N, gh, gw)`` in [0, 1], the covered fraction of each cell. Images with an empty mask
            do not count for that mask.

    Returns:
        ``reproducibility``, the correlation over cells of an image's two maps; ``other_image``, of its map with the
        map of another image (N / 2 further on), which measures the encoder's own spatial bias; ``like_contrast``, of
        its map with the control; ``kl_uniform``, the KL divergence from the uniform map in nats.

        For each mask: ``energy_<name>``, the fraction of A* on the mask; ``pointing_<name>``, the probability that a
        random point of the highest cell is on the mask (averaged over tied cells); ``chance_<name>``, the fraction of
        the area, which is the value of both for the uniform map; ``lift_<name>``, mean energy over mean chance, with
        its standard error over images ``lift_se_<name>``. With both masks ``bird`` and ``part``: ``focus``, the lift
        of the part over the lift of the bird, which is 1 for a map that covers the bird evenly.
    """
    first, second = maps.flatten(2).double()
    other_image = second.roll(len(second) // 2, dims=0)
    flat_maps = maps.flatten(0, 1).flatten(1).double()
    flat_control = control.flatten(0, 1).flatten(1).double()
    entropy = torch.special.entr(flat_maps).sum(dim=1)
    scores = {
        "reproducibility": _correlation(first, second).mean(),
        "other_image": _correlation(first, other_image).mean(),
        "like_contrast": _correlation(flat_maps, flat_control).mean(),
        "kl_uniform": (np.log(flat_maps.shape[1]) - entropy).mean(),
    }
    for name, mask in masks.items():
        visible = mask.flatten(1).sum(dim=1) > 0
        if visible.any():
            by_score = _mask_scores(maps[:, visible], mask[visible])
            scores |= {f"{score}_{name}": value for score, value in by_score.items()}
    if {"lift_part", "lift_bird"} <= scores.keys():
        scores["focus"] = scores["lift_part"] / scores["lift_bird"]
    return {name: float(value) for name, value in scores.items()}


def _mask_scores(maps: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Energy, pointing, chance and lift of maps ``(2, N, gh, gw)`` on a mask ``(N, gh, gw)``."""
    cells, a = mask.flatten(1).double(), maps.flatten(2).double()
    highest = (a == a.amax(dim=2, keepdim=True)).double()
    energy = (a * cells).sum(dim=2).mean(dim=0)  # (N,)
    chance = cells.mean(dim=1)  # (N,)
    lift = energy.mean() / chance.mean()
    spread = (energy - lift * chance).square().mean().sqrt() / chance.mean()
    return {
        "energy": energy.mean(),
        "pointing": ((highest * cells).sum(dim=2) / highest.sum(dim=2)).mean(),
        "chance": chance.mean(),
        "lift": lift,
        "lift_se": spread / len(energy) ** 0.5,
    }


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each row of ``(N, cells)``; 0 for constant rows."""
    a, b = (F.normalize(t - t.mean(dim=1, keepdim=True), dim=1, eps=1e-9) for t in (a, b))
    return (a * b).sum(dim=1)
