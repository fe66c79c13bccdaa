"""Samples and their order as functions of numbers: any worker, any process, any time gives the same."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler

from ppssl.data.dataset import ImageDataset, ViewDataset
from ppssl.data.loader import EpochLoader, EpochSampler, collate
from ppssl.data.source import UNKNOWN, ImageSource
from ppssl.data.transforms import MoCoV2Augmentation, apply_view, center_view
from ppssl.utils.errors import UserError


class Source(ImageSource):
    """Noise images of different sizes; those in ``broken`` raise."""

    def __init__(self, size=12, broken=(), error=OSError):
        self.labels = np.arange(size) % 3
        self.classes = ["a", "b", "c"]
        self.broken, self.error = set(broken), error

    def load(self, i):
        if i in self.broken:
            raise self.error(f"image {i} is torn.\nand more")
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def name(self, i):
        return f"file{i}.png"


def _views(source=None, *, offset=0, seed=0, requests=None):
    return ViewDataset(
        source or Source(),
        offset=offset,
        augmentation=MoCoV2Augmentation(),
        size=16,
        seed=seed,
        requests=requests or {},
    )


def _images(source=None, items=None, *, offset=0):
    source = source or Source()
    items = np.arange(len(source)) if items is None else np.array(items)
    return ImageDataset(
        source,
        items=items,
        offset=offset,
        transform=partial(center_view, size=16, crop_fraction=0.875),
    )


def _order(size=20, epoch=0, **kwargs):
    sampler = EpochSampler(size, **kwargs)
    sampler.set_epoch(epoch)
    return [i for _, i in sampler]


def _same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if name == "broken":
            assert value == b[name]
        elif isinstance(value, list):
            assert all(torch.equal(x, y) for x, y in zip(value, b[name], strict=True))
        else:
            assert torch.equal(value, b[name])


# ---------------------------------------------------------------- order


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 200), epoch=st.integers(-1, 100), seed=st.integers(0, 2**32))
def test_an_epoch_is_a_permutation_that_comes_again(size, epoch, seed):
    order = _order(size, epoch, seed=seed)
    assert sorted(order) == list(range(size))
    assert _order(size, epoch, seed=seed) == order


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(_order(30, epoch, seed=seed))
        for epoch, seed in itertools.product((-1, 0, 1, 2), (0, 1))
    }
    assert len(orders) == 8
    assert tuple(range(30)) not in orders


def test_the_epoch_travels_with_each_key():
    sampler = EpochSampler(5)
    for epoch in (3, -1):
        sampler.set_epoch(epoch)
        assert {e for e, _ in sampler} == {epoch}


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 100), replicas=st.integers(1, 8))
def test_processes_share_the_images_out(size, replicas):
    parts = [_order(size, 2, num_replicas=replicas, rank=r) for r in range(replicas)]
    assert {len(part) for part in parts} == {size // replicas}
    assert len(EpochSampler(size, num_replicas=replicas)) == size // replicas
    seen = list(itertools.chain(*parts))
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(size))


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_a_global_batch_is_the_same_for_any_number_of_processes(replicas):
    alone, parts = (
        _order(50, 1),
        [_order(50, 1, num_replicas=replicas, rank=r) for r in range(replicas)],
    )
    per_process = 4
    for b in range(50 // (per_process * replicas)):
        batches = [part[b * per_process : (b + 1) * per_process] for part in parts]
        expected = alone[b * per_process * replicas : (b + 1) * per_process * replicas]
        assert set(itertools.chain(*batches)) == set(expected)


def test_lightning_leaves_the_sampler_alone():
    """Any that is no DistributedSampler it wraps into one, and each process would see 1/R of its share."""
    assert isinstance(EpochSampler(4), DistributedSampler)


def test_what_was_used_is_left_out_once():
    used = [5]
    sampler = EpochSampler(20, used=lambda: used[0])
    assert [i for _, i in sampler] == _order(20)[5:]
    used[0] = 0
    assert [i for _, i in sampler] == _order(20)
    assert len(sampler) == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_begins_with_the_epoch_that_holds_at_its_first_batch(workers):
    """Lightning makes the iterator first and sets the epoch later."""
    sampler = EpochSampler(12)
    dataset = _views()
    loader = EpochLoader(
        dataset, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=collate
    )
    iterator = iter(loader)
    sampler.set_epoch(3)
    assert torch.cat([batch["index"] for batch in iterator]).tolist() == _order(12, 3)
    assert torch.cat([batch["index"] for batch in loader]).tolist() == _order(12, 3)


# ---------------------------------------------------------------- views


def test_a_sample_comes_again_bit_by_bit():
    dataset = _views()
    first = collate([dataset[4, 7]])
    dataset[5, 1]
    _same(collate([dataset[4, 7]]), first)
    _same(collate([_views()[4, 7]]), first)


def test_epoch_seed_and_view_change_the_pixels():
    base = _views()[0, 3]["views"]
    assert not torch.equal(base[0], base[1])
    assert not torch.equal(base[0], _views()[1, 3]["views"][0])
    assert not torch.equal(base[0], _views(seed=1)[0, 3]["views"][0])


def test_a_sample_is_what_the_augmentation_says_for_its_index():
    """The index in the full data set counts, not the number within the split."""
    item, image = _views(offset=100)[2, 5], Source().load(5)
    for view in (0, 1):
        parameters = MoCoV2Augmentation().sample(
            0, 2, 105, view, size=(image.height, image.width), view_size=16
        )
        assert torch.equal(item["views"][view], apply_view(image, parameters, 16))
        assert torch.equal(item["geometry"][view], parameters.geometry())
    assert item["index"] == 105
    assert item["label"] == 5 % 3


def test_further_views_are_what_the_augmentation_says():
    blur = {"blur_probability": 1.0, "blur_sigma": (20.0, 30.0)}
    augmentation = MoCoV2Augmentation(**blur, local_crops=2, local_size=8)
    options = {"offset": 100, "size": 16, "seed": 0, "requests": {}}
    item, plain = (
        ViewDataset(Source(), augmentation=each, **options)[2, 5]
        for each in (augmentation, MoCoV2Augmentation(**blur))
    )
    image = Source().load(5)
    assert all(torch.equal(a, b) for a, b in zip(item["views"][:2], plain["views"], strict=True))
    assert len(item["views"]) == len(item["geometry"]) == 4
    for view in (2, 3):
        parameters = augmentation.sample(
            0, 2, 105, view, size=(image.height, image.width), view_size=8
        )
        assert torch.equal(item["views"][view], apply_view(image, parameters, 8))
        assert torch.equal(item["geometry"][view], parameters.geometry())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_samples_whatever_the_number_of_workers(workers):
    sampler = EpochSampler(12, seed=5)
    sampler.set_epoch(6)
    dataset = _views()
    batches = list(
        DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=collate)
    )
    keys = list(sampler)
    assert len(batches) == 3
    for i, batch in enumerate(batches):
        _same(batch, collate([dataset[key] for key in keys[4 * i : 4 * i + 4]]))


def test_requests_are_made_of_the_original_image():
    requests = {
        "size": lambda image: torch.tensor(image.size),
        "pixel": lambda image: torch.tensor(image.getpixel((0, 0))),
    }
    item = _views(requests=requests)[0, 4]
    assert set(item) == {"views", "geometry", "index", "label", "broken", "size", "pixel"}
    assert item["size"].tolist() == [30, 24]
    assert item["pixel"].tolist() == list(Source().load(4).getpixel((0, 0)))


class Reduced(Source):
    """Its images are loaded at half their size where that is enough, as JPEGs are."""

    def load_reduced(self, i, short_side):
        return self.load(i).reduce(2)


def test_a_request_is_of_the_whole_image_and_changes_no_view():
    plain = _views(Reduced())[2, 3]
    asked = _views(Reduced(), requests={"size": lambda image: torch.tensor(image.size)})[2, 3]
    assert asked.pop("size").tolist() == [30, 23]
    assert not torch.equal(plain["views"][0], _views()[2, 3]["views"][0])
    _same(collate([plain]), collate([asked]))


# ---------------------------------------------------------------- evaluation


def test_images_for_evaluation_are_those_numbered():
    dataset = _images(items=[7, 2, 9], offset=50)
    assert len(dataset) == 3
    for position, i in enumerate((7, 2, 9)):
        item = dataset[position]
        assert torch.equal(item["image"], center_view(Source().load(i), 16, 0.875))
        assert (item["index"], item["label"], item["broken"]) == (50 + i, i % 3, [])


def test_an_unknown_label_stays_unknown():
    source = Source()
    source.labels = np.full(12, UNKNOWN)
    assert _images(source)[0]["label"] == -1
    assert _views(source)[0, 0]["label"] == -1


# ---------------------------------------------------------------- broken images


@pytest.mark.parametrize("error", [OSError, ValueError, SyntaxError, Image.DecompressionBombError])
def test_the_next_readable_image_takes_a_broken_ones_place(error):
    source = Source(broken=(4, 5), error=error)
    item, expected = _views(source)[3, 4], _views()[3, 6]
    assert all(torch.equal(a, b) for a, b in zip(item["views"], expected["views"], strict=True))
    assert (item["index"], item["label"]) == (6, 0)
    assert item["broken"] == [("file4.png", "image 4 is torn"), ("file5.png", "image 5 is torn")]


def test_after_the_last_image_comes_the_first():
    assert _views(Source(broken=(11,)))[0, 11]["index"] == 0


def test_a_substitute_for_evaluation_is_one_of_the_numbered():
    """Image 4 would be next, but it may be held out: it must not get in through the back door."""
    dataset = _images(Source(broken=(3,)), items=[1, 3, 8])
    assert [dataset[p]["index"] for p in range(3)] == [1, 8, 8]
    assert dataset[1]["broken"] == [("file3.png", "image 3 is torn")]
    assert _images(Source(broken=(8,)), items=[1, 3, 8])[2]["index"] == 1


def test_other_errors_are_not_taken_for_broken_images():
    with pytest.raises(KeyError, match="torn"):
        _views(Source(broken=(0,), error=KeyError))[0, 0]


def test_where_nothing_can_be_read_the_search_ends():
    with pytest.raises(
        UserError, match=r"None of 12 images in a row.*the first is file2\.png: image 2 is torn\."
    ):
        _views(Source(broken=range(12)))[0, 2]
    with pytest.raises(UserError, match="None of 2 images"):
        _images(Source(broken=range(12)), items=[5, 6])[0]


def test_a_batch_lists_what_is_broken():
    source = Source(broken=(1, 9))
    batch = collate([_views(source)[0, i] for i in (0, 1, 9)])
    assert [name for name, _ in batch["broken"]] == ["file1.png", "file9.png"]
    assert batch["index"].tolist() == [0, 2, 10]
    assert collate([_views()[0, 0]])["broken"] == []


def test_iterating_over_images_ends():
    rows = itertools.islice(_images(items=[2, 5, 7]), 10)
    assert [row["index"] for row in rows] == [2, 5, 7]
    with pytest.raises(IndexError, match="No image 3 among 3"):
        _images(items=[2, 5, 7])[3]
