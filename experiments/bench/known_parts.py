"""What IADM could gain: its map is not found by GradCAM but known, from the masks of synthetic birds.

An upper bound for any saliency, and a check of the mechanism: where this does not help, no better map will. It knows
what no self-supervised method may know, so its numbers are never to be quoted beside the others.

    ppssl ablate experiments/ablation/known_parts.yaml --out experiments/results/synthetic
"""

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import roi_align

from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.functional import saliency_target
from ppssl.losses.iadm.plugin import IADM
from ppssl.losses.loss_plugin import TrainingStep
from ppssl.studies.bench_saliency.attributions import contrast_map

TRAIN_SIZE = 4000
"""Of the recipe, as the birds' seed 0 and their size of 96 pixels."""

WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
"""Geometry of a probe image, which is not augmented."""


class KnownParts(IADM):
    """IADM whose A* is where the bird is, or any of its parts.

    Args:
        mask: ``"object"``, the whole bird, ``"parts"``, all five parts in which classes differ, or ``"part"``, the one
            by which an image's class differs from its nearest one (for which its label is read).
        loss_weight: As in :class:`ppssl.losses.iadm.IADM`, like the rest.
        use: What the map is for.
    """

    def __init__(
        self,
        mask: Literal["object", "parts", "part"] = "parts",
        loss_weight: float = 0.1,
        use: Literal["regularise", "attend", "both"] = "regularise",
    ) -> None:
        super().__init__(loss_weight=loss_weight, use=use, every=1)
        self.mask = mask

    def needs_image_gradient(self, progress: float, number: int) -> bool:
        """No: the map is not that of a gradient."""
        return False

    def saliency(self, step: TrainingStep, grid: tuple[int, int]) -> Tensor:
        """A* ``(B, gh, gw)`` of the query's view, from the mask of its original; uniform where the view misses it."""
        known = masks(self.mask)[step.batch["index"].cpu()].float()
        size = known.shape[-1]
        geometry = step.batch.get("geometry", WHOLE.expand(len(known), 2, 5))
        left, top, width, height, flip = geometry[:, 0].cpu().unbind(1)
        corners = size * torch.stack([left, top, left + width, top + height], dim=1)
        boxes = torch.cat([torch.arange(len(known))[:, None].float(), corners], dim=1)
        cells = roi_align(known[:, None], boxes, grid, sampling_ratio=4, aligned=True)[:, 0]
        cells = torch.where(flip[:, None, None] > 0, cells.flip(2), cells)
        return saliency_target(cells, grid).to(step.image.device)


class Contrast(IADM):
    """IADM whose A* is the image's own contrast with its local mean, in which no model takes part: a control.

    Args:
        loss_weight: As in :class:`ppssl.losses.iadm.IADM`.
        sharpen: gamma (D9).
    """

    def __init__(self, loss_weight: float = 1.0, sharpen: float = 1.0) -> None:
        super().__init__(loss_weight=loss_weight, sharpen=sharpen, every=1)

    def needs_image_gradient(self, progress: float, number: int) -> bool:
        """No: the map is not that of a gradient."""
        return False

    def saliency(self, step: TrainingStep, grid: tuple[int, int]) -> Tensor:
        """A* ``(B, gh, gw)`` of the query's view."""
        return saliency_target(
            contrast_map(step.image.detach(), "blur"), grid, sharpen=self.sharpen
        )


@cache
def masks(name: str) -> Tensor:
    """Of all training images, ``(N, S, S)`` bool."""
    birds = SyntheticBirds(TRAIN_SIZE)
    found = []
    for i in range(len(birds)):
        known = birds.annotations(i)
        part = birds.distinguishing_part(int(birds.labels[i]))
        chosen = {
            "object": known["object"],
            "parts": known["parts"].any(dim=0),
            "part": known["parts"][part],
        }
        found.append(chosen[name])
    return torch.stack(found)
