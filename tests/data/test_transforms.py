"""MoCo v2's views: drawn as said, carried out as torchvision and Pillow would, and where `geometry` says."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ppssl.data.images import shorten
from ppssl.data.transforms import (
    MoCoV2Augmentation,
    ViewParameters,
    apply_view,
    center_view,
    color_matrix,
)

PLAIN = ViewParameters(
    crop=(0.0, 0.0, 1.0, 1.0),
    flip=False,
    jitter=None,
    grey=False,
    blur_sigma=0.0,
)
LUMA = np.array([0.299, 0.587, 0.114])


def _sample(augmentation=None, *, seed=0, epoch=0, index=0, view=0, size=(60, 80), view_size=32):
    augmentation = augmentation or MoCoV2Augmentation()
    return augmentation.sample(seed, epoch, index, view, size=size, view_size=view_size)


def _samples(count, augmentation=None, **kwargs):
    return [_sample(augmentation, index=i, **kwargs) for i in range(count)]


def _with(**changes):
    return dataclasses.replace(PLAIN, **changes)


def _image(low=0, high=256, size=(40, 48), seed=0):
    """Smooth, so that resampling means the same to all; ``size`` is height and width."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)).astype(float)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    return Image.fromarray((low + pixels * (high - 1 - low)).astype(np.uint8))


def _coordinates(height=120, width=200):
    """Red says where a pixel lies from left to right, green from top to bottom, in [0, 255]."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    pixels = np.stack([*np.broadcast_arrays(255 * x[None, :], 255 * y[:, None], 128.0)], axis=-1)
    return Image.fromarray(np.round(pixels).astype(np.uint8))


def _averaged(image, size):
    """Exact means over areas: each pixel repeated until whole ones fill an area."""
    pixels = np.asarray(image, dtype=float)
    for axis in (0, 1):
        pixels = np.repeat(pixels, size, axis=axis)
        shape = list(pixels.shape)
        shape[axis : axis + 1] = [size, shape[axis] // size]
        pixels = pixels.reshape(shape).mean(axis=axis + 1)
    return pixels


def _within(actual, expected, levels, share=1.0):
    """At most so many grey levels apart, at least in that share of all values."""
    error = np.abs(np.asarray(actual, dtype=float) - np.asarray(expected, dtype=float))
    assert (error <= levels).mean() >= share, f"largest error {error.max()}, mean {error.mean()}"


# ---------------------------------------------------------------- what is drawn


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(-1, 1000),
    index=st.integers(0, 2**40),
    view=st.sampled_from((0, 1)),
)
def test_equal_numbers_give_equal_parameters(seed, epoch, index, view):
    place = {"seed": seed, "epoch": epoch, "index": index, "view": view}
    expected = _sample(**place)
    _sample(seed=seed + 1)
    assert _sample(MoCoV2Augmentation(), **place) == expected


def test_each_number_changes_the_parameters():
    first = _sample(seed=1, epoch=1, index=1, view=0)
    for change in ({"seed": 2}, {"epoch": -1}, {"index": 2}, {"view": 1}):
        other = _sample(**({"seed": 1, "epoch": 1, "index": 1, "view": 0} | change))
        assert other.crop[:2] != first.crop[:2]


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    index=st.integers(0, 10**6),
    low=st.floats(0.05, 1.0),
    hue=st.floats(0, 0.5),
)
def test_parameters_lie_in_their_ranges(height, width, index, low, hue):
    augmentation = MoCoV2Augmentation(
        crop_scale=(low, 1.0), jitter=(0.4, 0.3, 0.2, hue), jitter_probability=1
    )
    p = _sample(augmentation, index=index, size=(height, width), view_size=112)
    left, top, w, h = p.crop
    assert left >= 0
    assert top >= 0
    assert 0 < w <= 1
    assert 0 < h <= 1
    assert left + w <= 1 + 1e-12
    assert top + h <= 1 + 1e-12
    for factor, strength in zip(p.jitter[:3], (0.4, 0.3, 0.2), strict=True):
        assert 1 - strength <= factor <= 1 + strength
    assert abs(p.jitter[3]) <= hue
    assert p.blur_sigma == 0 or 0.05 <= p.blur_sigma <= 1.0  # 0.1 to 2 at 224: half of it at 112
    ratio = w * width / (h * height)
    if 3 / 4 <= width / height <= 4 / 3:
        assert 3 / 4 - 1e-9 <= ratio <= 4 / 3 + 1e-9


def test_probabilities_are_kept():
    n = 4000
    drawn = _samples(n, MoCoV2Augmentation(flip_probability=0.3))
    for share, probability in (
        (np.mean([p.flip for p in drawn]), 0.3),
        (np.mean([p.grey for p in drawn]), 0.2),
        (np.mean([p.jitter is not None for p in drawn]), 0.8),
        (np.mean([p.blur_sigma > 0 for p in drawn]), 0.5),
    ):
        assert share == pytest.approx(
            probability, abs=4 * np.sqrt(probability * (1 - probability) / n)
        )


def test_probabilities_of_each_view_are_kept():
    """BYOL's."""
    byol = MoCoV2Augmentation(blur_probability=(1.0, 0.1), solarize_probability=(0.0, 0.2))
    n = 4000
    for view, (blur, solarize) in enumerate(((1.0, 0.0), (0.1, 0.2))):
        drawn = _samples(n, byol, view=view)
        spread = 4 * np.sqrt(0.2 * 0.8 / n)
        found = np.mean([p.blur_sigma > 0 for p in drawn]), np.mean([p.solarize for p in drawn])
        assert found == pytest.approx((blur, solarize), abs=spread)
        coins = [[p.flip, p.blur_sigma > 0, p.grey, p.solarize] for p in drawn]
        if view:
            correlation = np.corrcoef(np.array(coins, dtype=float).T) - np.eye(4)
            assert np.abs(correlation).max() < 4 / np.sqrt(n)
    assert not any(p.solarize for p in _samples(200))


@pytest.mark.parametrize("probability", [0, 1])
def test_probabilities_of_none_and_all_are_exact(probability):
    names = ("jitter_probability", "grey_probability", "blur_probability", "flip_probability")
    for p in _samples(200, MoCoV2Augmentation(**dict.fromkeys(names, probability))):
        assert (p.jitter is not None) == p.grey == (p.blur_sigma > 0) == p.flip == bool(probability)


def test_the_four_coins_are_independent():
    drawn = np.array(
        [[p.flip, p.grey, p.jitter is not None, p.blur_sigma > 0] for p in _samples(4000)],
        dtype=float,
    )
    correlation = np.corrcoef(drawn.T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(4000)


def test_one_option_leaves_the_other_draws_alone():
    """A run without colour must crop and flip as the one with colour does."""
    plain = MoCoV2Augmentation(
        jitter_probability=0, grey_probability=0, blur_probability=0, jitter=(0, 0, 0, 0)
    )
    for a, b in zip(_samples(50), _samples(50, plain), strict=True):
        assert (a.crop, a.flip) == (b.crop, b.flip)


def test_the_area_and_shape_of_crops_are_those_of_torchvisions_random_resized_crop():
    """Two-sample comparison of quantiles, on an image that is not square: rejections shape the distribution."""
    size, n = (60, 100), 3000
    drawn = np.array([p.crop for p in _samples(n, size=size)])
    w, h = drawn[:, 2] * size[1], drawn[:, 3] * size[0]
    crop, image = v2.RandomResizedCrop(8, scale=(0.2, 1.0)), torch.zeros(3, *size)
    torch.manual_seed(0)
    theirs = np.array(
        [[p["width"], p["height"]] for p in (crop.make_params([image]) for _ in range(n))],
        dtype=float,
    )
    levels = np.linspace(0.05, 0.95, 10)
    area, their_area = w * h / 6000, theirs.prod(axis=1) / 6000
    np.testing.assert_allclose(
        np.quantile(area, levels), np.quantile(their_area, levels), atol=0.035
    )
    ratio, their_ratio = np.log(w / h), np.log(theirs[:, 0] / theirs[:, 1])
    np.testing.assert_allclose(
        np.quantile(ratio, levels), np.quantile(their_ratio, levels), atol=0.04
    )
    free = drawn[:, 2] < 0.9
    where = drawn[free, 0] / (1 - drawn[free, 2])
    np.testing.assert_allclose(np.quantile(where, levels), levels, atol=0.05)


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (1, 5000), (5000, 1)])
def test_very_wide_and_very_tall_images_give_the_largest_central_crop(size):
    height, width = size
    p = _sample(MoCoV2Augmentation(crop_scale=(0.9, 1.0)), size=size)
    left, top, w, h = p.crop
    assert w * width / (h * height) == pytest.approx(4 / 3 if width > height else 3 / 4)
    assert max(w, h) == 1
    assert (left, top) == pytest.approx(((1 - w) / 2, (1 - h) / 2))
    view = apply_view(Image.new("RGB", (width, height), (10, 20, 30)), p, 8)
    assert view.shape == (3, 8, 8)


def test_blur_scales_with_the_view():
    small, large = (_samples(50, view_size=s) for s in (56, 224))
    for a, b in zip(small, large, strict=True):
        assert a.blur_sigma == pytest.approx(b.blur_sigma / 4)


def test_jitter_factors_fill_their_ranges():
    drawn = np.array([p.jitter for p in _samples(2000, MoCoV2Augmentation(jitter_probability=1))])
    centre, strength = np.array([1, 1, 1, 0]), np.array([0.4, 0.4, 0.4, 0.1])
    unit = (drawn - centre) / strength
    np.testing.assert_allclose(
        np.quantile(unit, [0.1, 0.5, 0.9], axis=0).T, [[-0.8, 0, 0.8]] * 4, atol=0.1
    )
    assert np.abs(np.corrcoef(unit.T) - np.eye(4)).max() < 4 / np.sqrt(2000)


# ---------------------------------------------------------------- colour


def _matrix_applied(image, parameters):
    pixels = np.asarray(image, dtype=float).reshape(-1, 3)
    matrix = color_matrix(parameters, pixels.mean(axis=0))
    return (pixels @ matrix[:, :3].T + matrix[:, 3]).reshape(*np.asarray(image).shape)


def _adjusted(image, adjustments):
    """torchvision's own, one after another on floats, so that nothing is rounded on the way."""
    names = {
        "brightness": tv.adjust_brightness,
        "contrast": tv.adjust_contrast,
        "saturation": tv.adjust_saturation,
    }
    view = tv.pil_to_tensor(image).float() / 255
    for name, factor in adjustments:
        view = names[name](view, factor)
    assert view.min() > 0  # nothing was clipped
    assert view.max() < 1
    return 255 * view.permute(1, 2, 0)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.6, 0.9, 1.0, 1.4])
def test_one_adjustment_is_torchvisions(position, factor):
    image = _image(90, 166)
    jitter = [1.0, 1.0, 1.0, 0.0]
    jitter[position] = factor
    expected = _adjusted(image, [(("brightness", "contrast", "saturation")[position], factor)])
    _within(_matrix_applied(image, _with(jitter=tuple(jitter))), expected, 0.2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_chain_is_torchvisions_in_any_order(order):
    image, named = _image(90, 166), [("brightness", 1.2), ("contrast", 0.7), ("saturation", 1.3)]
    expected = _adjusted(image, [named[i] for i in order])
    _within(_matrix_applied(image, _with(jitter=(1.2, 0.7, 1.3, 0.0))), expected, 0.2)


def test_no_jitter_and_neutral_jitter_are_the_identity():
    identity = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1)
    mean = np.array([100.0, 50.0, 25.0])
    np.testing.assert_array_equal(color_matrix(PLAIN, mean), identity)
    np.testing.assert_allclose(
        color_matrix(_with(jitter=(1.0, 1.0, 1.0, 0.0)), mean), identity, atol=1e-12
    )


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.25, 1 / 3])
def test_hue_keeps_luma_and_grey_and_turns_back(turn):
    matrix = color_matrix(_with(jitter=(1.0, 1.0, 1.0, turn)), np.zeros(3))
    back = color_matrix(_with(jitter=(1.0, 1.0, 1.0, -turn)), np.zeros(3))
    np.testing.assert_allclose(LUMA @ matrix[:, :3], LUMA, atol=1e-12)
    np.testing.assert_allclose(matrix[:, :3] @ np.full(3, 77.0), np.full(3, 77.0), atol=1e-6)
    np.testing.assert_allclose(back[:, :3] @ matrix[:, :3], np.eye(3), atol=1e-12)
    assert np.abs(matrix[:, :3] - np.eye(3)).max() > 0.05


def test_hue_is_an_angle_in_turns():
    """Half a turn gives the complementary colour of equal luma, and turns add up."""

    def turned(turn):
        return color_matrix(_with(jitter=(1.0, 1.0, 1.0, turn)), np.zeros(3))[:, :3]

    np.testing.assert_allclose(turned(0.5), 2 * np.tile(LUMA, (3, 1)) - np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turned(0.1) @ turned(0.2), turned(0.3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.matrix_power(turned(0.1), 10), np.eye(3), atol=1e-10)
    assert not np.allclose(np.linalg.matrix_power(turned(0.1), 5), np.eye(3), atol=0.1)


def test_grey_is_torchvisions_and_has_equal_channels():
    image = _image()
    view = apply_view(image, _with(grey=True), 40).permute(1, 2, 0).numpy()
    assert (view[..., 0] == view[..., 1]).all()
    assert (view[..., 0] == view[..., 2]).all()
    _within(view, np.repeat((_averaged(image, 40) @ LUMA)[..., None], 3, axis=-1), 1)


def test_grey_comes_after_the_jitter():
    image = _image(90, 166)
    jittered = _with(jitter=(1.2, 0.8, 1.4, 0.1))
    grey = _matrix_applied(image, dataclasses.replace(jittered, grey=True))
    luma = _matrix_applied(image, jittered) @ LUMA
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, axis=-1), atol=1e-9)


def test_colours_of_a_view_are_those_of_the_matrix_clipped():
    image = _image()
    p = _with(jitter=(1.4, 1.4, 1.4, 0.1))
    expected = np.clip(_matrix_applied(image, p), 0, 255)
    assert (expected == 255).any()  # something does clip
    expected = np.clip(_matrix_applied(_averaged(image, 40).round(), p), 0, 255)
    _within(apply_view(image, p, 40).permute(1, 2, 0), expected, 4)  # a level before the matrix
    _within(apply_view(image, p, 40).permute(1, 2, 0), expected, 1, share=0.95)


def test_contrast_is_taken_about_the_crop_not_the_whole_image():
    image = Image.new("RGB", (40, 40), (200, 200, 200))
    image.paste((60, 60, 60), (0, 0, 20, 40))
    view = apply_view(image, _with(crop=(0.0, 0.0, 0.45, 1.0), jitter=(1.0, 0.5, 1.0, 0.0)), 16)
    _within(view, np.full((3, 16, 16), 60), 1)


# ---------------------------------------------------------------- pixels


def test_the_identity_resizes():
    image = _image()
    view = apply_view(image, PLAIN, 32)
    assert view.dtype == torch.uint8
    assert view.permute(
        1, 2, 0
    ).is_contiguous()  # pixel by pixel, as encoders of convolutions want it
    pixels = view.permute(1, 2, 0).numpy()
    _within(pixels, _averaged(image, 32), 1)
    _within(pixels, image.resize((32, 32), Image.Resampling.BILINEAR), 8)  # torchvision's filter


def test_a_fine_pattern_does_not_alias():
    """Lines of one pixel become grey, where sampling without a filter would leave lines."""
    lines = np.zeros((96, 96, 3), np.uint8)
    lines[:, ::2] = 255
    for size in (60, 48, 20):
        view = apply_view(Image.fromarray(lines), PLAIN, size).float()
        assert view.std() < 128 / 2
        assert view.mean() == pytest.approx(127.5, abs=2)


def test_pixels_and_images_give_the_same_view():
    image = _image()
    for p in _samples(20, size=(40, 48), view_size=24):
        assert apply_view(np.asarray(image), p, 24).equal(apply_view(image, p, 24))


def test_the_identity_at_the_images_own_size_changes_nothing():
    image = _image(size=(40, 40))
    np.testing.assert_array_equal(
        apply_view(image, PLAIN, 40).permute(1, 2, 0).numpy(), np.asarray(image)
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("top", "left", "h", "w"), [(0, 0, 30, 30), (10, 24, 24, 18), (5, 3, 35, 45)]
)
def test_crop_and_flip_are_torchvisions(flip, top, left, h, w):
    image = _image()
    expected = tv.resized_crop(image, top, left, h, w, [32, 32])
    expected = tv.hflip(expected) if flip else expected
    view = apply_view(image, _with(crop=(left / 48, top / 40, w / 48, h / 40), flip=flip), 32)
    # enlarged: the same filter; averaged over areas: another, on a smooth image nearly the same
    _within(view, tv.pil_to_tensor(expected), 1 if h < 32 else 3)


@pytest.mark.parametrize("index", range(12))
def test_geometry_names_the_region_that_the_view_shows(index):
    augmentation = MoCoV2Augmentation(jitter_probability=0, grey_probability=0, blur_probability=0)
    p = _sample(augmentation, index=index, size=(120, 200))
    left, top, w, h, flip = p.geometry().tolist()
    centres = (np.arange(32) + 0.5) / 32
    x = left + w * (1 - centres if flip else centres)
    y = top + h * centres
    red, green, _ = apply_view(_coordinates(), p, 32).numpy().astype(float)
    _within(red, np.broadcast_to(255 * x, (32, 32)), 2)
    _within(green, np.broadcast_to(255 * y[:, None], (32, 32)), 2)


def test_geometries_were_flipped_and_not():
    """What the test above has looked at."""
    flips = {bool(_sample(index=i, size=(120, 200)).geometry()[4]) for i in range(12)}
    assert flips == {False, True}


def test_geometry_is_five_floats():
    geometry = _with(crop=(0.125, 0.25, 0.5, 0.375), flip=True).geometry()
    assert geometry.dtype == torch.float32
    assert geometry.tolist() == [0.125, 0.25, 0.5, 0.375, 1.0]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_torchvisions(sigma):
    image = _image(size=(32, 32), seed=1)
    expected = tv.gaussian_blur(tv.pil_to_tensor(image).float(), [15, 15], [sigma, sigma])
    view = apply_view(image, _with(blur_sigma=sigma), 32)
    _within(view[:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], 3)
    assert view.float().var() < tv.pil_to_tensor(image).float().var()


@pytest.mark.parametrize("flip", [False, True])
def test_solarize_is_torchvisions_after_all_else(flip):
    image = _image(size=(32, 32), seed=2)
    changes = {"blur_sigma": 1.0, "jitter": (1.3, 0.9, 1.2, 0.05), "flip": flip}
    before = apply_view(image, _with(**changes), 32)
    view = apply_view(image, _with(solarize=True, **changes), 32)
    assert view.equal(tv.solarize(before, 128))
    assert 0.1 < (before >= 128).float().mean() < 0.9
    plain = tv.pil_to_tensor(image)
    assert apply_view(image, _with(solarize=True), 32).equal(tv.solarize(plain, 128))


def test_every_drawn_view_can_be_carried_out():
    image = _image(size=(33, 57))
    for p in _samples(100, MoCoV2Augmentation(crop_scale=(0.01, 1.0)), size=(33, 57)):
        view = apply_view(image, p, 16)
        assert view.shape == (3, 16, 16)
        assert view.dtype == torch.uint8


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50), (20, 300)])
@pytest.mark.parametrize("crop", [0.875, 1.0, 0.5])
def test_the_view_for_evaluation_has_its_shape(size, crop):
    view = center_view(Image.new("RGB", size[::-1]), 28, crop)
    assert view.shape == (3, 28, 28)
    assert view.dtype == torch.uint8


@pytest.mark.parametrize("crop", [0.5, 0.875, 1.0])
def test_the_view_for_evaluation_shows_the_middle(crop):
    """Of the height a share ``crop``, of the width as many pixels."""
    red, green, _ = center_view(_coordinates(), 32, crop).numpy().astype(float)
    centres = (np.arange(32) + 0.5) / 32 - 0.5
    _within(green, np.broadcast_to(255 * (0.5 + crop * centres)[:, None], (32, 32)), 5)
    _within(red, np.broadcast_to(255 * (0.5 + crop * 120 / 200 * centres), (32, 32)), 5)


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_strip_the_middle_alone_is_resized(turned):
    """A line of 20,000 pixels would be 18,000 times as large; of what is seen nothing changes."""
    ramp = np.repeat(np.arange(20_000)[None] % 251, 10, axis=0).astype(np.uint8)
    strip = Image.fromarray(ramp.T if turned else ramp).convert("RGB")
    assert min(shorten(strip).size) == 10
    assert max(shorten(strip).size) == 160
    assert shorten(strip.resize((160, 10))).size == (160, 10)
    side = round(20 / 0.875)
    whole = tv.resize(strip, [side])
    expected = tv.pil_to_tensor(tv.center_crop(whole, [20, 20])).int()
    assert (center_view(strip, 20, 0.875).int() - expected).abs().max() <= 2


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"crop_scale": (0.0, 1.0)},
            r"`crop_scale` must be 0 < low <= high <= 1, got \(0.0, 1.0\)",
        ),
        ({"crop_scale": (0.5, 0.4)}, r"`crop_scale`"),
        ({"crop_scale": (0.5, 1.1)}, r"`crop_scale`"),
        ({"local_scale": (0.5, 0.4)}, r"`local_scale` must be 0 < low <= high <= 1"),
        ({"local_crops": -1}, r"`local_crops` must be >= 0, got -1"),
        ({"local_size": 0}, r"`local_size` must be >= 1, got 0"),
        ({"crop_ratio": (0.0, 1.0)}, r"`crop_ratio` must be 0 < low <= high, got"),
        ({"crop_ratio": (2.0, 1.0)}, r"`crop_ratio`"),
        ({"jitter": (1.1, 0, 0, 0)}, r"`jitter` must be three numbers in \[0, 1\]"),
        ({"jitter": (0, 0, -0.1, 0)}, r"`jitter`"),
        ({"jitter": (0, 0, 0, 0.6)}, r"`jitter`"),
        ({"blur_sigma": (-1, 1)}, r"`blur_sigma` must be 0 <= low <= high, got"),
        ({"blur_sigma": (2, 1)}, r"`blur_sigma`"),
        ({"jitter_probability": 1.5}, r"`jitter_probability` must be in \[0, 1\], got 1.5"),
        ({"grey_probability": -0.1}, r"`grey_probability`"),
        ({"blur_probability": 2}, r"`blur_probability`"),
        ({"flip_probability": -1}, r"`flip_probability`"),
        ({"blur_probability": (0.5, 2)}, r"`blur_probability` must be in \[0, 1\], got 2"),
        ({"solarize_probability": (-1, 0)}, r"`solarize_probability`"),
        (
            {"solarize_probability": (0, 0, 1)},
            r"a number or 2 values, each a number, got \(0, 0, 1\)",
        ),
    ],
)
def test_bad_ranges_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MoCoV2Augmentation(**arguments)


def test_the_configuration_is_every_argument():
    augmentation = MoCoV2Augmentation(crop_scale=[0.3, 0.9], flip_probability=0.1)
    again = MoCoV2Augmentation(**augmentation.config()["init_args"])
    assert vars(again) == vars(augmentation)
    assert _sample(again) == _sample(augmentation)


# ---------------------------------------------------------------- further views


def test_further_views_are_drawn_from_their_own_scale():
    plain = MoCoV2Augmentation(blur_probability=(1.0, 0.0), solarize_probability=(0.0, 1.0))
    local = MoCoV2Augmentation(
        blur_probability=(1.0, 0.0),
        solarize_probability=(0.0, 1.0),
        local_crops=3,
        local_size=12,
        local_scale=(0.05, 0.15),
    )
    assert (plain.view_sizes(32), local.view_sizes(32)) == ([32, 32], [32, 32, 12, 12, 12])
    for view in (0, 1):
        assert _samples(20, plain, view=view) == _samples(20, local, view=view)
    areas = []
    for view in (2, 3, 4):
        drawn = _samples(200, local, view=view, view_size=12)
        areas += [p.crop[2] * p.crop[3] for p in drawn]
        assert all(0 < p.blur_sigma <= 2.0 * 12 / 224 and not p.solarize for p in drawn)
    assert 0.05 <= min(areas) < 0.06
    assert 0.14 < max(areas) <= 0.15
    assert len({round(area, 9) for area in areas}) == 600


@pytest.mark.parametrize("options", [{}, {"local_crops": 1, "local_size": 20}])
def test_the_shortest_side_is_enough_for_all_views(options):
    augmentation = MoCoV2Augmentation(local_scale=(0.1, 0.2), **options)
    side, short = augmentation.shortest_side(16), []
    for view, size in enumerate(augmentation.view_sizes(16)):
        for p in _samples(300, augmentation, view=view, size=(side, side), view_size=size):
            short.append(min(p.crop[2:]) * side / size)
    assert 1 <= min(short) < 1.3
