import pytest
import torch

from ppssl.data.annotations import object_mask, part_mask


def test_masks_follow_the_centre_view() -> None:
    whole = torch.zeros(40, 40, dtype=torch.bool)
    whole[10:30, 20:40] = True
    mask = object_mask({"object": whole}, (40, 40), 20, 1.0)
    assert mask.shape == (20, 20)
    assert mask[5:15, 10:].mean() > 0.9
    assert mask.mean() == pytest.approx(0.25, abs=0.02)
    box = torch.tensor([0.5, 0.25, 1.0, 0.75])
    torch.testing.assert_close(object_mask({"box": box}, (40, 40), 20, 1.0), mask, atol=0.3, rtol=0)
    half = object_mask({"object": whole}, (40, 40), 20, 0.5)  # the middle: columns 10 to 30
    assert half[:, 11:].mean() > 0.9
    assert half[:, :9].mean() < 0.1
    assert object_mask({}, (40, 40), 20, 1.0) is None


def test_parts_known_as_points_are_discs() -> None:
    box = torch.tensor([0.0, 0.0, 1.0, 0.5])  # 80 x 20 pixels: the larger side is 80, the radius 8
    points = torch.tensor([[0.5, 0.5], [float("nan"), float("nan")]])
    mask = part_mask({"box": box, "points": points}, (80, 40), 40, 1.0)
    assert mask is not None
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    disc = ((x - 20) ** 2 + (y - 20) ** 2) <= 8**2
    assert (mask.round() != disc).float().mean() < 0.02
    masks = torch.zeros(2, 40, 80, dtype=torch.bool)
    masks[0, 10:20, 30:40] = masks[1, 20:30, 40:50] = True
    both = part_mask({"parts": masks}, (0, 0), 40, 1.0)
    assert both is not None
    assert both.mean() == pytest.approx(200 / 1600)
    assert both[10:20, 10:20].min() == both[20:30, 20:30].min() == 1
    assert part_mask({"points": points}, (80, 40), 40, 1.0) is None
