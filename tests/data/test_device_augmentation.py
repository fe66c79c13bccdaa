"""Views that are finished on the training device: those that the workers would have made."""

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from ppssl import IADM, PPSSL, FolderDataModule, MoCo, MoCoV2Augmentation, UserError
from ppssl.data.device_augmentation import augment_views, largest_kernel, parameter_tensors
from ppssl.data.transforms import ViewParameters, apply_view, color_matrix, crop_view
from save_at import SaveAt

PLAIN = ViewParameters((0.0, 0.0, 1.0, 1.0), False, None, False, 0.0)
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def _image(seed, height=60, width=72):
    """Smooth colours with edges and noise, of the whole range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    pixels[10:30, 20:50] = rng.integers(0, 256, 3)
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


def _on_device(pixels, parameters, size, kernel):
    """The view of each image by its own parameters, in one batch."""
    crops = [
        torch.from_numpy(crop_view(x, p, size)).permute(2, 0, 1)
        for x, p in zip(pixels, parameters, strict=True)
    ]
    geometry = torch.stack([p.geometry() for p in parameters])[:, None]
    tensors = [parameter_tensors([p], kernel) for p in parameters]
    batch = {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}
    (views,) = augment_views([torch.stack(crops)], geometry, batch)
    return views


def _levels(found, expected):
    """Differences in levels of 255."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert torch.equal(found, found.round())
    return (found - expected.float()).abs()


@pytest.mark.parametrize(("size", "images"), [(32, 200), (48, 100), (224, 12)])
def test_views_equal_those_of_the_workers(size, images):
    augmentation = MoCoV2Augmentation(blur_sigma=(0.1, 4.0), jitter=(0.8, 0.8, 0.8, 0.4))
    pixels = [_image(i) for i in range(images)]
    parameters = [
        augmentation.sample(0, 1, i, 0, size=(60, 72), view_size=size) for i in range(images)
    ]
    assert {p.flip for p in parameters} == {p.grey for p in parameters} == {False, True}
    assert {p.blur_sigma > 0 for p in parameters} == {p.jitter is None for p in parameters}
    expected = torch.stack(
        [apply_view(x, p, size) for x, p in zip(pixels, parameters, strict=True)]
    )
    found = _on_device(pixels, parameters, size, largest_kernel(augmentation, size))
    difference = _levels(found, expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.1
    assert (expected.float() - expected.float().mean()).abs().mean() > 20  # not flat


@pytest.mark.parametrize(
    ("change", "most"),
    [
        ({}, 0),
        ({"flip": True}, 0),
        ({"grey": True}, 1),
        ({"solarize": True}, 0),
        ({"solarize": True, "flip": True}, 0),
        ({"jitter": (1.4, 0.6, 1.4, 0.1)}, 1),
        ({"jitter": (0.6, 1.4, 0.6, -0.1), "grey": True, "flip": True}, 1),
        *(({"blur_sigma": sigma}, 2) for sigma in (0.05, 0.3, 0.5, 1.0, 1.9)),
    ],
)
def test_each_operation(change, most):
    parameters = ViewParameters(**vars(PLAIN) | change)
    pixels = _image(1)
    found = _on_device([pixels], [parameters], 32, 13)[0]
    assert _levels(found, apply_view(pixels, parameters, 32)).max() <= most


def test_what_is_out_of_range_is_clipped_before_the_blur():
    parameters = ViewParameters((0.0, 0.0, 1.0, 1.0), False, (1.9, 1.9, 1.0, 0.0), False, 1.5)
    pixels = _image(2)
    expected = apply_view(pixels, parameters, 32)
    assert (expected == 255).float().mean() > 0.05
    assert _levels(_on_device([pixels], [parameters], 32, 13)[0], expected).max() <= 2


def test_contrast_is_taken_about_the_crop():
    parameters = ViewParameters((0.0, 0.0, 0.4, 0.5), False, (1.0, 0.2, 1.0, 0.0), False, 0.0)
    pixels = _image(3)
    crop = crop_view(pixels, parameters, 24)
    matrix = color_matrix(parameters, crop.reshape(-1, 3).mean(axis=0))
    expected = crop @ matrix[:, :3].T + matrix[:, 3]
    found = _on_device([pixels], [parameters], 24, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_an_image_does_not_depend_on_its_batch():
    augmentation = MoCoV2Augmentation()
    pixels = [_image(i) for i in range(6)]
    parameters = [augmentation.sample(0, 0, i, 1, size=(60, 72), view_size=32) for i in range(6)]
    kernel = largest_kernel(augmentation, 32)
    together = _on_device(pixels, parameters, 32, kernel)
    for i in range(6):
        alone = _on_device(pixels[i : i + 1], parameters[i : i + 1], 32, kernel)[0]
        assert (alone - together[i]).abs().max() <= 1


def test_the_largest_kernel():
    assert largest_kernel(MoCoV2Augmentation(), 224) == 13
    assert largest_kernel(MoCoV2Augmentation(), 96) == 7
    assert largest_kernel(MoCoV2Augmentation(blur_probability=0), 224) == 1
    with pytest.raises(UserError, match=r"cannot blur views of 32 .* lower `augmentation.blur_"):
        largest_kernel(MoCoV2Augmentation(blur_sigma=(0.1, 90.0)), 32)
    assert largest_kernel(MoCoV2Augmentation(local_crops=1, local_size=64), 224) == 13
    assert largest_kernel(MoCoV2Augmentation(local_crops=1, local_size=224), 64) == 13
    with pytest.raises(UserError, match=r"cannot blur views of 6 pixels with a kernel of 13"):
        largest_kernel(MoCoV2Augmentation(local_crops=1, local_size=6), 224)


class Beyond(MoCoV2Augmentation):
    """Draws a blur that its arguments do not allow."""

    def sample(self, *args, **kwargs):
        return ViewParameters((0.0, 0.0, 1.0, 1.0), False, None, False, 9.0)


def test_a_blur_beyond_the_largest_is_refused(image_folder):
    data = _data(image_folder, augment_on="device", augmentation=Beyond())
    data.setup()
    with pytest.raises(ValueError, match="drew a `blur_sigma` of 9 pixels"):
        next(iter(data.train_dataloader(epoch=0)))


# -- data module ------------------------------------------------------------------------------------------------------


def _data(root, **kwargs):
    options = {"image_size": 32, "batch_size": 8, "num_workers": 0, "seed": 0} | kwargs
    return FolderDataModule(str(root), **options)


def _batches(root, epoch=0, **kwargs):
    data = _data(root, **kwargs)
    data.setup()
    return [
        data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
        for batch in data.train_dataloader(epoch=epoch)
    ]


LOCAL = MoCoV2Augmentation(local_crops=2, local_size=20)


@pytest.mark.parametrize(("epoch", "augmentation"), [(-1, None), (0, None), (3, None), (0, LOCAL)])
def test_batches_equal_those_of_the_workers(epoch, augmentation, image_folder):
    expected = _batches(image_folder, epoch, augmentation=augmentation)
    found = _batches(image_folder, epoch, augmentation=augmentation, augment_on="device")
    assert len(found) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["geometry"], theirs["geometry"])
        assert torch.equal(ours["index"], theirs["index"])
        for mine, other in zip(ours["views"], theirs["views"], strict=True):
            assert mine.dtype == other.dtype == torch.float32
            torch.testing.assert_close(mine, other, rtol=0, atol=2.001 / 255 / 0.224)


def test_solarized_views_are_those_of_the_workers(image_folder):
    """Values next to the threshold may lie on its two sides: two levels before are many after."""
    augmentation = MoCoV2Augmentation(solarize_probability=(0.0, 1.0), blur_probability=(1.0, 0.1))
    options = {"augmentation": augmentation}
    found = _batches(image_folder, augment_on="device", **options)
    for ours, theirs in zip(found, _batches(image_folder, **options), strict=True):
        for v, (mine, other) in enumerate(zip(ours["views"], theirs["views"], strict=True)):
            far = (mine - other).abs() > 2.001 / 255 / 0.224
            assert far.float().mean() < (0.01 if v else 1e-9)
            assert mine.std() > 0.3  # not flat


def test_any_number_of_workers_gives_the_same(image_folder):
    one, two = (_batches(image_folder, augment_on="device", num_workers=n) for n in (0, 2))
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["views"], b["views"], strict=True))


def test_crops_travel_as_bytes(image_folder):
    data = _data(image_folder, augment_on="device")
    data.setup()
    batch = next(iter(data.train_dataloader(epoch=0)))
    assert batch["views"][0].dtype == torch.uint8
    assert batch["views"][0].is_contiguous(memory_format=torch.channels_last)
    assert {n: tuple(t.shape) for n, t in batch["augmentation"].items()} == {
        "color": (8, 2, 2, 3, 3),
        "blur": (8, 2, 3),
        "solarize": (8, 2),
    }


def test_evaluation_is_not_augmented(image_folder):
    for kind in ("workers", "device"):
        data = _data(image_folder, augment_on=kind)
        data.setup()
        batch = next(iter(data.eval_loader("test")))
        assert "augmentation" not in batch


class Seen(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *args):
        self.losses.append(outputs["loss"].detach())


def _fit(root, folder, kind, *, iadm=True, callbacks=(), ckpt=None):
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        init_seed=0,
        lr=0.002,
        contrastive=MoCo(dim=8),
        plugins={"iadm": IADM(start=0, full=0, every=1)} if iadm else {},
    )
    seen = Seen()
    trainer = Trainer(
        max_epochs=2,
        default_root_dir=folder,
        callbacks=[seen, *callbacks],
        enable_checkpointing=False,
        **QUIET,
    )
    trainer.fit(model, _data(root, augment_on=kind), ckpt_path=ckpt)
    return model, seen.losses


@pytest.mark.parametrize(("iadm", "tolerance"), [(False, 0.003), (True, 0.05)])
def test_training_is_that_of_the_workers(iadm, tolerance, image_folder, tmp_path):
    """With a queue that is filled before; the maps of IADM in so small an encoder follow each pixel."""
    _, expected = _fit(image_folder, tmp_path / "workers", "workers", iadm=iadm)
    _, found = _fit(image_folder, tmp_path / "device", "device", iadm=iadm)
    assert len(found) == 6
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def test_a_resumed_run_is_the_uninterrupted_one(image_folder, tmp_path):
    save = SaveAt(4, tmp_path / "a.ckpt")  # in the middle of the second epoch
    whole, losses = _fit(image_folder, tmp_path / "whole", "device", callbacks=[save])
    again, rest = _fit(image_folder, tmp_path / "again", "device", ckpt=tmp_path / "a.ckpt")
    assert rest == losses[4:]
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_wrong_place_is_refused(image_folder):
    with pytest.raises(ValueError, match="`augment_on` must be one of workers, device, got 'gpu'"):
        _data(image_folder, augment_on="gpu")
