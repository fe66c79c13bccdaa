import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ppssl import FolderDataModule, UserError
from ppssl.data.own_views import OwnView

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8}
CHAIN = v2.Compose(
    [
        v2.PILToTensor(),
        v2.RandomResizedCrop(32, scale=(0.2, 1), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomSolarize(128, p=0.2),
    ]
)


def torchvision_view(image: Image.Image, generator: np.random.Generator) -> Tensor:
    return CHAIN(image)


def kornia_view(image: Image.Image, generator: np.random.Generator) -> Tensor:
    augmentation = pytest.importorskip("kornia.augmentation")
    chain = augmentation.AugmentationSequential(
        augmentation.RandomResizedCrop((32, 32)), augmentation.RandomHorizontalFlip()
    )
    return chain(v2.functional.to_image(image)[None] / 255)


def generator_view(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    left = generator.integers(image.width - 32)
    return image.crop((left, 0, left + 32, 32))


def array_view(image: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Draws from the global generators of NumPy and Python, as albumentations once did."""
    left, top = np.random.randint(image.width - 32), random.randrange(image.height - 32)
    return np.asarray(image)[top : top + 32, left : left + 32]


def pair_of_views(image: Image.Image) -> list[Tensor]:
    """Both at once, as lightly's transforms do."""
    return [CHAIN(image), CHAIN(image)]


OWN = [torchvision_view, kornia_view, generator_view, array_view, CHAIN, pair_of_views]


def _batches(
    folder: Path, augmentation: OwnView | None, epoch: int = 0, **kwargs: Any
) -> list[Any]:
    data = FolderDataModule(str(folder), augmentation=augmentation, **SMALL | kwargs)
    data.setup()
    batches = list(data.train_dataloader(epoch))
    return [data.on_after_batch_transfer(data.on_before_batch_transfer(b, 0), 0) for b in batches]


@pytest.mark.parametrize(
    "own",
    [pytest.param(o, marks=[pytest.mark.slow] * (o in (kornia_view, array_view))) for o in OWN],
)
def test_views_follow_seed_epoch_image_and_view_and_nothing_else(
    own: OwnView, image_folder: Path
) -> None:
    first = _batches(image_folder, own, num_workers=0, seed=3)
    before = torch.rand(1), np.random.rand(), random.random()
    for other in ({"num_workers": 2}, {"num_workers": 0}):
        again = _batches(image_folder, own, seed=3, **other)
        for a, b in zip(first, again, strict=True):
            assert a["index"].equal(b["index"])
            assert all(x.equal(y) for x, y in zip(a["views"], b["views"], strict=True))
    assert before != (torch.rand(1), np.random.rand(), random.random())
    views = first[0]["views"]
    assert views[0].shape == (8, 3, 32, 32)
    assert views[0].dtype == torch.float32
    assert not views[0].equal(views[1])
    other_seed = _batches(image_folder, own, num_workers=0, seed=4)
    by_image = [
        {int(i): v for b in run for i, v in zip(b["index"], b["views"][0], strict=True)}
        for run in (first, other_seed, _batches(image_folder, own, 1, num_workers=0, seed=3))
    ]
    assert all(
        sum(by_image[0][i].equal(run[i]) for i in run) < len(run) / 2 for run in by_image[1:]
    )


@pytest.mark.parametrize(
    "own",
    [
        lambda image: CHAIN(image),
        partial(lambda scale, image: CHAIN(image), 1.0),
        lambda image, antialias=True: CHAIN(image),
        lambda image, *more, **options: CHAIN(image),
    ],
)
def test_a_function_of_the_image_alone_is_the_transform_itself(
    own: OwnView, image_folder: Path
) -> None:
    for a, b in zip(
        _batches(image_folder, own, num_workers=0),
        _batches(image_folder, CHAIN, num_workers=0),
        strict=True,
    ):
        assert all(x.equal(y) for x, y in zip(a["views"], b["views"], strict=True))


def test_lightlys_transforms_are_taken(image_folder: Path) -> None:
    transforms = pytest.importorskip("lightly.transforms")
    with_mean = transforms.MoCoV2Transform(input_size=32)
    without = transforms.MoCoV2Transform(input_size=32, normalize=None)
    views = _batches(image_folder, without, num_workers=0)[0]["views"]
    assert not views[0].equal(views[1])
    with pytest.raises(UserError, match="leave the normalisation to the model"):
        _batches(image_folder, with_mean, num_workers=0)


def test_the_random_numbers_of_the_training_are_left_alone(image_folder: Path) -> None:
    drawn = []
    for augmentation in (None, torchvision_view, kornia_view, array_view):
        torch.manual_seed(0)
        np.random.seed(0)
        _batches(image_folder, augmentation, num_workers=0)
        drawn.append((torch.rand(3).tolist(), np.random.rand()))
    assert drawn == [drawn[0]] * 4


def test_they_are_normalised_once_and_have_no_geometry(image_folder: Path) -> None:
    def grey(image: Image.Image, generator: np.random.Generator) -> Tensor:
        return torch.full((3, 32, 32), 0.5)

    batch = _batches(image_folder, grey, num_workers=0)[0]
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    torch.testing.assert_close(batch["views"][0][0, :, 3, 7], (0.5 - mean) / std)
    assert batch["geometry"].isnan().all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (torch.zeros(3, 16, 16), r"views of \(3, 32, 32\) for `image_size` 32, got \(3, 16, 16\)"),
        (torch.randn(3, 32, 32), "floats in .0, 1., got torch.float32 .* leave the normalisation"),
        ([torch.zeros(3, 32, 32)], "one view, or a list of two or more, got a `list` of 1"),
        ([torch.zeros(3, 32, 32)] * 2 + [torch.zeros(4, 8, 8)], r"views of \(3, h, w\) after"),
        ([torch.zeros(3, 32, 32), torch.zeros(3, 8, 8)], r"got \(3, 8, 8\)"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_what_is_no_view_is_one_line(made: Any, message: str, image_folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        _batches(image_folder, lambda image, generator: made, num_workers=0)


def test_further_views_have_a_size_of_their_own(image_folder: Path) -> None:
    crop = v2.RandomResizedCrop((12, 20))

    def more(image: Image.Image) -> list[Any]:
        return [CHAIN(image), CHAIN(image), crop(image), np.asarray(crop(image))]

    for batch in _batches(image_folder, more, num_workers=0):
        assert [tuple(v.shape) for v in batch["views"]] == [(8, 3, 32, 32)] * 2 + [
            (8, 3, 12, 20)
        ] * 2
        assert batch["geometry"].shape == (8, 4, 5)
    first, again = (_batches(image_folder, more, num_workers=n)[1]["views"] for n in (0, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[2].equal(first[3])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_view_is_one_line_of_workers_too(workers: int, image_folder: Path) -> None:
    def too_small(image: Image.Image) -> Tensor:
        return torch.zeros(3, 16, 16)

    with pytest.raises(UserError) as caught:
        _batches(image_folder, too_small, num_workers=workers)
    assert str(caught.value) == (
        "`augmentation` must give views of (3, 32, 32) for `image_size` 32, got (3, 16, 16)."
    )
    assert ("Original Traceback" in str(caught.value.__cause__)) == (workers > 0)


def test_other_errors_of_workers_keep_their_traceback(image_folder: Path) -> None:
    def fails(image: Image.Image) -> Tensor:
        raise TypeError("a fault of the transform")

    with pytest.raises(TypeError, match=r"(?s)Original Traceback.*a fault of the transform"):
        _batches(image_folder, fails, num_workers=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_unequal_views_of_a_batch_are_one_line(workers: int, image_folder: Path) -> None:
    def grows(image: Image.Image) -> list[Tensor]:
        return [CHAIN(image), CHAIN(image), torch.zeros(3, 8, 8 + random.randrange(9))]

    def more(image: Image.Image) -> list[Tensor]:
        return [CHAIN(image)] * (2 + random.randrange(2))

    for own, got in ((grows, r"\(3, 32, 32\), \(3, 8, \d+\) of one image"), (more, "of one image")):
        line = f"^`augmentation` must give .* as many views, of the same sizes, got .*{got}"
        with pytest.raises(UserError, match=line):
            _batches(image_folder, own, num_workers=workers)


def test_the_device_has_moco_v2s_only() -> None:
    with pytest.raises(ValueError, match="`augment_on` must be 'workers' for an `augmentation` of"):
        FolderDataModule("x", augmentation=torchvision_view, augment_on="device")
