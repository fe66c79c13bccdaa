"""Gradients with respect to images under fp16: neither rounded to zero nor infinite."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppssl.functional import image_gradcam, saliency_target
from ppssl.utils.half_precision import SCALE, input_gradient


class Net(nn.Module):
    """A smooth score of each image, whose gradient is of the size of ``factor``; images do not meet."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)),
        )
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, 0].float() * self.factor


def _images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _fp16() -> Any:
    return torch.autocast("cpu", dtype=torch.float16)


def test_gradients_below_the_smallest_number_of_fp16() -> None:
    net, images = Net(1e-4), _images().requires_grad_()
    exact = image_gradcam(net(images), images, rectify=False)
    with _fp16():
        values = net(images)
        (plain,) = torch.autograd.grad(values.sum(), images, retain_graph=True)
        found = image_gradcam(values, images, rectify=False)
    assert plain.eq(0).float().mean() > 0.5  # what it would be without a scale
    assert found.ne(0).float().mean() > 0.95
    assert (found - exact).norm() < 0.05 * exact.norm()
    difference = saliency_target(found, (4, 4)) - saliency_target(exact, (4, 4))
    assert difference.abs().max() < 0.02
    values.sum().backward()  # the graph is still there


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_not_scaled(dtype: torch.dtype) -> None:
    net, images = Net(1.0), _images().requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        values = net(images)
        (plain,) = torch.autograd.grad(values.sum(), images, retain_graph=True)
        assert torch.equal(input_gradient(values, images), plain)


def test_an_image_that_overflows_has_its_unscaled_gradient() -> None:
    net, images = Net(1.0), _images().requires_grad_()
    weights = torch.tensor([1e-4, 1e3, 1e-4])  # of the second image, too large times SCALE
    with _fp16():
        values = net(images) * weights
        scaled = torch.autograd.grad(values.sum() * SCALE, images, retain_graph=True)[0]
        plain = torch.autograd.grad(values.sum(), images, retain_graph=True)[0]
        found = input_gradient(values, images)
    assert [bool(image.isfinite().all()) for image in scaled] == [True, False, True]
    assert torch.equal(found[1], plain[1])
    assert torch.equal(found[::2], scaled[::2] / SCALE)
    assert not torch.equal(found[::2], plain[::2])


def test_an_image_that_overflows_unscaled_has_none() -> None:
    net, images = Net(1.0), _images().requires_grad_()
    with _fp16():
        found = input_gradient(net(images) * torch.tensor([1.0, 1e9, 1.0]), images)
    assert torch.equal(found[1], torch.zeros_like(found[1]))
    assert found[::2].ne(0).any(dim=(1, 2, 3)).all()


def test_models_in_fp16_without_autocast() -> None:
    weight = torch.full((3, 3, 4, 4), 2e-8)
    images = torch.ones(3, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    values = (images.float() * weight).sum(dim=(1, 2, 3))
    found = input_gradient(values, images)
    torch.testing.assert_close(found, weight, rtol=0.01, atol=0)
