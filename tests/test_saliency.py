"""GradCAM of the image, its distribution over cells, and how far a map is from it."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppssl.functional import image_gradcam, saliency_kl, saliency_target
from reference.saliency import finite_difference_gradcam, grid_distribution


class Small(nn.Module):
    """Smooth, so that finite differences are exact enough."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.GELU(), nn.Conv2d(5, 4, 3, stride=2), nn.Tanh()
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).square().mean(dim=(1, 2, 3))


def _images(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def test_equals_finite_differences_times_the_image() -> None:
    model, images = Small(), _images(2, 3, 7, 6)
    expected = finite_difference_gradcam(model, images)
    signed = image_gradcam(model, images, rectify=False)
    torch.testing.assert_close(signed, expected, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(image_gradcam(model, images), expected.relu(), atol=1e-8, rtol=1e-6)


def test_the_blur_reference_is_a_local_mean() -> None:
    model, images = Small(), _images(2, 3, 16, 16)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    local = torch.zeros_like(images)
    for i in range(16):
        for j in range(16):  # 5 x 5, cut off at the border
            window = images[:, :, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            local[:, :, i, j] = window.mean(dim=(2, 3))
    expected = ((images - local) * gradient).sum(dim=1)
    torch.testing.assert_close(image_gradcam(model, images, "blur", rectify=False), expected)
    plain = image_gradcam(model, images, "gradient")
    torch.testing.assert_close(plain, gradient.abs().sum(dim=1))


def test_the_map_of_an_image_of_one_colour_is_exactly_0_and_its_target_uniform() -> None:
    """Rounding would leave a pattern, which the target scales up; the other images are as they were alone."""
    model, images = Small().float(), _images(3, 3, 64, 64).float()
    images[1] = torch.tensor([0.1, -0.7, 1.3])[:, None, None]
    signed = image_gradcam(model, images, "blur", rectify=False)
    assert signed[1].eq(0).all()
    assert saliency_target(signed, (4, 4))[1].eq(1 / 16).all()
    for i in (0, 2):
        alone = image_gradcam(model, images[i : i + 1], "blur", rectify=False)[0]
        torch.testing.assert_close(signed[i], alone)
        assert signed[i].abs().max() > 0


def test_tensor_and_function_agree_and_the_graph_stays() -> None:
    model, images = Small(), _images(2, 3, 8, 8).requires_grad_()
    objective = model(images)
    from_tensor = image_gradcam(objective, images)
    torch.testing.assert_close(from_tensor, image_gradcam(model, images.detach()))
    assert not from_tensor.requires_grad
    assert images.grad is None
    assert all(p.grad is None for p in model.parameters())
    objective.mean().backward()  # still there
    assert all(p.grad is not None for p in model.parameters())


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, images = Small(), _images(4, 3, 8, 8)
    together = image_gradcam(model, images)
    for i in range(4):
        torch.testing.assert_close(image_gradcam(model, images[i : i + 1]), together[i : i + 1])


def test_at_the_output_layer_it_is_hirescam() -> None:
    """grad-cam's HiResCAM, before and after that library's own scaling and resizing."""
    from pytorch_grad_cam import HiResCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5).eval()
    images = _images(2, 3, 64, 64).float()
    with HiResCAM(model=model, target_layers=[model.layer4]) as cam:
        theirs = cam(images, targets=[ClassifierOutputTarget(2)] * 2)
    feature_map = model.forward_features(images)
    logits = model.forward_head(feature_map)
    ours = image_gradcam(logits[:, 2], feature_map).numpy()
    resized = scale_cam_image(ours, (64, 64))
    torch.testing.assert_close(
        torch.from_numpy(scale_cam_image(resized)), torch.from_numpy(theirs), atol=1e-4, rtol=1e-3
    )


def test_at_the_output_layer_it_is_the_loop_of_the_predecessor() -> None:
    feature_map = _images(2, 4, 3, 3).abs().requires_grad_()
    loss = (feature_map.mean(dim=(2, 3)) * _images(2, 4, seed=1)).sum(dim=1).tanh()
    (gradient,) = torch.autograd.grad(loss.sum(), feature_map, retain_graph=True)
    ours = image_gradcam(loss, feature_map)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                value = sum((feature_map * gradient)[b, c, i, j].item() for c in range(4))
                assert ours[b, i, j].item() == pytest.approx(max(value, 0.0), abs=1e-12)


@pytest.mark.parametrize("order", ["pool_relu", "relu_pool"])
@pytest.mark.parametrize("gamma", [1.0, 2.5])
def test_target_equals_the_loop(order: str, gamma: float) -> None:
    attribution = _images(3, 12, 8)
    target = saliency_target(attribution, (4, 2), order=order, sharpen=gamma)
    torch.testing.assert_close(target, grid_distribution(attribution, 4, 2, order, gamma))


def test_target_limits() -> None:
    attribution = _images(2, 8, 8)
    uniform = saliency_target(torch.zeros(2, 8, 8), (4, 4))
    torch.testing.assert_close(uniform, torch.full((2, 4, 4), 1 / 16))
    negative = saliency_target(-attribution.abs(), (4, 4))
    torch.testing.assert_close(negative, torch.full((2, 4, 4), 1 / 16, dtype=torch.float64))
    target = saliency_target(attribution, (4, 4))
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(saliency_target(attribution * factor, (4, 4)), target)
    torch.testing.assert_close(target.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))
    sharp = saliency_target(attribution, (4, 4), sharpen=200.0)
    assert (sharp.flatten(1).max(dim=1).values > 0.9).all()
    tiny = saliency_target(torch.full((1, 4, 4), 1e-38), (2, 2), sharpen=4.0)
    torch.testing.assert_close(tiny, torch.full((1, 2, 2), 0.25))


def test_a_bias_is_divided_out() -> None:
    bias = _images(4, 4).abs() + 0.1
    common = bias.repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    flat = saliency_target(common, (4, 4), bias=bias)
    torch.testing.assert_close(flat, torch.full((1, 4, 4), 1 / 16, dtype=torch.float64))


def test_kl() -> None:
    target = saliency_target(_images(3, 8, 8), (4, 4))
    raw = _images(3, 4, 4, seed=5).requires_grad_()

    def kl(raw: Tensor) -> Tensor:
        return saliency_kl(target, raw.flatten(1).log_softmax(dim=1).unflatten(1, (4, 4)))

    assert torch.autograd.gradcheck(kl, (raw,))
    expected = [
        sum(
            p * math.log(p / q)
            for p, q in zip(t.flatten().tolist(), r.flatten().softmax(0).tolist(), strict=True)
            if p > 0
        )
        for t, r in zip(target, raw, strict=True)
    ]
    torch.testing.assert_close(kl(raw), torch.tensor(expected, dtype=torch.float64))
    assert saliency_kl(target, target.clamp(min=1e-300).log()).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0).eval()
    images, other = (_images(4, 3, 64, 64, seed=s).float() for s in (0, 1))

    def objective(x: Tensor) -> Tensor:
        return F.cosine_similarity(model(x).float(), model(other).float().detach(), dim=1)

    exact = saliency_target(image_gradcam(objective, images, rectify=False), (8, 8))
    with torch.autocast("cpu", dtype=dtype):
        half = saliency_target(image_gradcam(objective, images, rectify=False), (8, 8))
    assert half.dtype == torch.float32
    assert (half - exact).abs().sum(dim=(1, 2)).mean() < (0.05 if dtype == torch.float16 else 0.5)


def test_errors() -> None:
    images = _images(2, 3, 4, 4)
    with pytest.raises(ValueError, match="`images` must be"):
        image_gradcam(Small(), images[0])
    with pytest.raises(ValueError, match=r"`objective` must be \(B,\) = 2"):
        image_gradcam(lambda x: x.mean(), images)
    with pytest.raises(ValueError, match="`reference` must be"):
        image_gradcam(lambda x: x.mean(dim=(1, 2, 3)), images, "black")
    with pytest.raises(ValueError, match="`sharpen` must be >= 1"):
        saliency_target(images[:, 0], (2, 2), sharpen=0.5)
    with pytest.raises(ValueError, match="`order` must be"):
        saliency_target(images[:, 0], (2, 2), order="pool")
    with pytest.raises(ValueError, match="`target` and `log_map` must be"):
        saliency_kl(images[:, 0], images[:, 0, :2])
