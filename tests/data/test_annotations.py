import pytest
import torch

from ppssl.checkpointing.view import View
from ppssl.data.annotations import object_mask, part_mask


def test_masks_follow_the_centre_view() -> None:
    whole = torch.zeros(40, 40, dtype=torch.bool)
    whole[10:30, 20:40] = True
    mask = object_mask({"object": whole}, (40, 40), View(20, 1.0))
    assert mask.shape == (20, 20)
    assert mask[5:15, 10:].mean() > 0.9
    assert mask.mean() == pytest.approx(0.25, abs=0.02)
    box = torch.tensor([0.5, 0.25, 1.0, 0.75])
    torch.testing.assert_close(
        object_mask({"box": box}, (40, 40), View(20, 1.0)), mask, atol=0.3, rtol=0
    )
    half = object_mask({"object": whole}, (40, 40), View(20, 0.5))  # the middle: columns 10 to 30
    assert half[:, 11:].mean() > 0.9
    assert half[:, :9].mean() < 0.1
    assert object_mask({}, (40, 40), View(20, 1.0)) is None


@pytest.mark.parametrize("box", [(1, 0.2, 1, 0.6), (0.2, 0, 0.7, 0), (0.501, 0.3, 0.502, 0.5)])
def test_a_box_outside_of_the_image_or_of_no_pixel_is_nothing(box: tuple[float, ...]) -> None:
    mask = object_mask({"box": torch.tensor(box)}, (40, 40), View(20, 1.0))
    assert mask is not None
    assert not mask.any()


def test_parts_known_as_points_are_discs() -> None:
    box = torch.tensor([0.0, 0.0, 1.0, 0.5])  # 80 x 20 pixels: the larger side is 80, the radius 8
    points = torch.tensor([[0.5, 0.5], [float("nan"), float("nan")]])
    mask = part_mask({"box": box, "points": points}, (80, 40), View(40, 1.0))
    assert mask is not None
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    disc = ((x - 20) ** 2 + (y - 20) ** 2) <= 8**2
    assert (mask.round() != disc).float().mean() < 0.02
    masks = torch.zeros(2, 40, 80, dtype=torch.bool)
    masks[0, 10:20, 30:40] = masks[1, 20:30, 40:50] = True
    both = part_mask({"parts": masks}, (0, 0), View(40, 1.0))
    assert both is not None
    assert both.mean() == pytest.approx(200 / 1600)
    assert both[10:20, 10:20].min() == both[20:30, 20:30].min() == 1
    assert part_mask({"points": points}, (80, 40), View(40, 1.0)) is None


def test_masks_of_a_squashed_image_are_squashed() -> None:
    """Of an image of 120 x 40 pixels: the rectangle is where its fractions are, whatever the mask's resolution."""
    squashed = View(24, 1.0, squash=True)
    expected = torch.zeros(24, 24)
    expected[6:18, 4:16] = 1
    box = {"box": torch.tensor([1 / 6, 0.25, 2 / 3, 0.75])}
    coarse, fine = torch.zeros(12, 36), torch.zeros(40, 120)
    coarse[3:9, 6:24] = fine[10:30, 20:80] = 1
    for annotations in (box, {"object": fine > 0}, {"object": coarse > 0}):
        mask = object_mask(annotations, (120, 40), squashed)
        assert mask is not None
        assert (mask - expected).abs().mean() < 0.05
        parts = {"parts": annotations["object"][None]} if "object" in annotations else None
        if parts is not None:
            assert part_mask(parts, (120, 40), squashed).equal(mask)
        central = object_mask(annotations, (120, 40), View(24, 1.0))
        assert (central - expected).abs().mean() > 0.2
    points = box | {"points": torch.tensor([[0.25, 0.5]])}  # a disc of radius 6, here an ellipse
    part = part_mask(points, (120, 40), squashed)
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    ellipse = ((x - 6) / (6 * 24 / 120)) ** 2 + ((y - 12) / (6 * 24 / 40)) ** 2 <= 1
    assert (part - ellipse.float()).abs().mean() < 0.02
