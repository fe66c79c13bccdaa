"""The upper bound of IADM, experiments/bench/known_parts.py: its maps lie where the view shows the parts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from experiments.bench import known_parts
from PIL import Image

from ppssl.data import MoCoV2Augmentation
from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.data.transforms import apply_view


@pytest.mark.parametrize("mask", ["object", "parts"])
def test_the_map_is_the_views_own_mask(mask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_parts, "TRAIN_SIZE", 12)
    known_parts.masks.cache_clear()
    birds = SyntheticBirds(12)
    augmentation = MoCoV2Augmentation(
        crop_scale=(0.3, 1.0), jitter_probability=0, grey_probability=0, blur_probability=0
    )
    index = torch.tensor([7, 2, 11, 0, 5])
    views, geometry = [], []
    for i in index.tolist():
        known = birds.annotations(i)
        shown = known["object"] if mask == "object" else known["parts"].any(dim=0)
        picture = Image.fromarray(shown.numpy().astype("uint8") * 255).convert("RGB")
        drawn = augmentation.sample(3, 0, i, 0, size=(96, 96), view_size=64)
        views.append(apply_view(picture, drawn, 64)[0].float())
        geometry.append(torch.stack([drawn.geometry(), torch.zeros(5)]))
    assert 0 < sum(g[0, 4] for g in geometry) < 5  # some are mirrored, some not
    cells = F.adaptive_avg_pool2d(torch.stack(views)[:, None], (8, 8))[:, 0]
    wanted = cells / cells.sum(dim=(1, 2), keepdim=True)

    step: Any = SimpleNamespace(
        batch={"index": index, "geometry": torch.stack(geometry)}, image=torch.stack(views)
    )
    found = known_parts.KnownParts(mask).saliency(step, (8, 8))
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(5))
    assert (found - wanted).abs().sum(dim=(1, 2)).max() < 0.1  # of at most 2

    probe: Any = SimpleNamespace(batch={"index": index[:1]}, image=torch.zeros(1, 3, 96, 96))
    shown = birds.annotations(7)["object" if mask == "object" else "parts"].view(-1, 96, 96).any(0)
    whole = known_parts.KnownParts(mask).saliency(probe, (96, 96))
    assert whole[0][shown].sum() > 0.95  # an un-augmented image has no geometry


def test_the_controls_map_is_the_contrast_with_the_local_mean() -> None:
    """Two dots on grey, one twice as far from it: with gamma 2 the cell of the one has four times the other's."""
    image = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    image[:, :, 4, 4], image[:, :, 27, 27] = 2.0, -1.0
    found = known_parts.Contrast(sharpen=2.0).saliency(SimpleNamespace(image=image), (4, 4))[0]
    assert (found.argmax().item(), found.flatten().sort().indices[-2].item()) == (0, 15)
    assert found[0, 0] / found[3, 3] == pytest.approx(4, rel=0.1)
