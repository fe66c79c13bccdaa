"""What every data module promises: the batch contract, splits, broken images, and going on where a run stopped."""

import itertools
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ppssl.data import FineGrainedDataModule, FolderDataModule, MoCoV2Augmentation
from ppssl.data.loader import default_workers
from ppssl.data.report import report_unreadable
from ppssl.data.source import UNKNOWN, ImageSource
from ppssl.data.transforms import center_view
from ppssl.utils.errors import UserError
from save_at import SaveAt

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Source(ImageSource):
    """Noise images, each of its own; those in ``broken`` raise."""

    def __init__(self, labels, *, first=0, broken=()):
        self.labels = np.array(labels, dtype=np.int64)
        self.classes = [f"class{k}" for k in range(max(labels) + 1)]
        self.first, self.broken = first, set(broken)

    def load(self, i):
        if i in self.broken:
            raise OSError("torn file")
        pixels = np.random.default_rng(self.first + i).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def name(self, i):
        return f"file{self.first + i}"


class Data(FineGrainedDataModule):
    """Three classes of ten to train on, three of three to test."""

    def __init__(self, splits=None, **kwargs):
        super().__init__(**({"image_size": 16, "batch_size": 8, "num_workers": 0} | kwargs))
        self.splits = splits or {
            "train": Source([0, 1, 2] * 10),
            "test": Source([0, 1, 2] * 3, first=1000),
        }

    def load_sources(self):
        return dict(self.splits)


def _data(splits=None, **kwargs):
    data = Data(splits, **kwargs)
    data.setup()
    return data


def _batches(data, loader):
    """As a Trainer hands them to the model, without a Trainer."""
    for batch in loader:
        yield data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)


def _first(data, loader=None):
    return next(_batches(data, data.train_dataloader() if loader is None else loader))


def _index(data, loader):
    return torch.cat([batch["index"] for batch in _batches(data, loader)]).tolist()


# ---------------------------------------------------------------- batches


def test_a_training_batch_keeps_the_contract():
    batch = _first(_data())
    assert set(batch) == {"views", "index", "label", "geometry"}
    assert len(batch["views"]) == 2
    for view in batch["views"]:
        assert view.shape == (8, 3, 16, 16)
        assert view.dtype == torch.float32
    assert (batch["index"].shape, batch["index"].dtype) == ((8,), torch.int64)
    assert (batch["label"].shape, batch["label"].dtype) == ((8,), torch.int64)
    assert (batch["geometry"].shape, batch["geometry"].dtype) == ((8, 2, 5), torch.float32)
    assert torch.equal(batch["label"], batch["index"] % 3)


def test_a_batch_for_evaluation_keeps_the_contract():
    data = _data()
    batch = _first(data, data.predict_dataloader())
    assert set(batch) == {"image", "index", "label"}
    assert batch["image"].shape == (8, 3, 16, 16)
    assert batch["image"].dtype == torch.float32
    assert batch["index"].dtype == batch["label"].dtype == torch.int64


def test_what_is_kept_of_a_batch_holds_no_file_of_a_worker():
    """Linux gives a shared tensor an open file until the last reference to it is gone."""
    data = _data(num_workers=1)
    for loader in (data.train_dataloader(0), data.eval_loader("train")):
        batch = next(iter(loader))
        assert batch["index"].is_shared()
        assert batch["label"].is_shared()
        kept = data.on_before_batch_transfer(dict(batch), 0)
        for name in ("index", "label"):
            assert not kept[name].is_shared()
            assert kept[name].equal(batch[name])


def test_what_was_requested_comes_with_the_training_batch_alone():
    data = _data()
    data.request({"corner": lambda image: torch.tensor(image.getpixel((0, 0)))})
    batch = _first(data)
    expected = [data.sources["train"].load(i).getpixel((0, 0)) for i in batch["index"].tolist()]
    assert batch["corner"].tolist() == [list(pixel) for pixel in expected]
    assert "corner" not in _first(data, data.eval_loader("train"))


def test_pixels_are_normalised_with_the_encoders_numbers():
    data = _data()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    data.normalise_with(mean, std)
    raw = torch.stack([center_view(data.sources["train"].load(i), 16, 0.875) for i in range(8)])
    expected = raw.double() / 255
    for c in range(3):
        expected[:, c] = (expected[:, c] - mean[c]) / std[c]
    torch.testing.assert_close(
        _first(data, data.eval_loader("train"))["image"].double(), expected, atol=1e-5, rtol=0
    )


def test_until_told_otherwise_it_is_imagenets_numbers():
    image = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    expected = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert _data().normalise(image).flatten().tolist() == pytest.approx(expected)


def test_views_are_normalised_too():
    data = _data(augmentation=MoCoV2Augmentation())
    data.normalise_with((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    views = torch.cat(_first(data)["views"])
    assert views.min() >= -1
    assert views.max() <= 1
    assert views.min() < -0.3


def test_the_index_counts_on_through_the_splits():
    splits = {
        "train": Source([0, 1] * 4),
        "val": Source([0, 1] * 3, first=50),
        "test": Source([0, 1], first=90),
    }
    data = _data(splits)
    assert [data.offset(split) for split in ("train", "val", "test")] == [0, 8, 14]
    found = [_index(data, data.eval_loader(split)) for split in splits]
    assert list(itertools.chain(*found)) == list(range(16))


# ---------------------------------------------------------------- order and seeds


def _fingerprint(batch):
    return (
        batch["index"].tolist(),
        [view.sum().item() for view in batch["views"]],
        batch["geometry"].sum().item(),
    )


def test_equal_seeds_give_the_same_batches_whatever_the_workers():
    runs = []
    for workers in (0, 2):
        data = _data(seed=4, num_workers=workers)
        runs.append([_fingerprint(batch) for batch in _batches(data, data.train_dataloader())])
    assert runs[0] == runs[1]
    assert len(runs[0]) == 3  # 30 images in batches of 8: the partial one is left out


def test_another_seed_or_epoch_gives_another_batch():
    data = _data(seed=4)
    prints = [_fingerprint(_first(data, data.train_dataloader(epoch))) for epoch in (None, -1, 1)]
    prints.append(_fingerprint(_first(_data(seed=5))))
    for column in zip(*prints, strict=True):
        assert len({str(value) for value in column}) == 4


def test_the_seed_is_lightnings_where_none_is_given(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    lightnings = _fingerprint(_first(_data()))
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert lightnings == _fingerprint(_first(_data(seed=4)))
    assert lightnings != _fingerprint(_first(_data()))


# ---------------------------------------------------------------- a Trainer's


class Probe(LightningModule):
    """Remembers what it was trained on."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(
            (self.current_epoch, batch["index"].tolist(), batch["views"][0].sum().item())
        )
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(data, *, epochs=3, resume=None, callbacks=()):
    model = Probe()
    Trainer(max_epochs=epochs, limit_val_batches=0, callbacks=list(callbacks), **QUIET).fit(
        model, data, ckpt_path=resume
    )
    return model.seen


def test_every_epoch_has_an_order_of_its_own_that_no_worker_lags_behind():
    seen = _fit(Data(num_workers=2))
    for epoch in range(3):
        direct = _data()
        expected = _index(direct, direct.train_dataloader(epoch))
        found = itertools.chain(*(index for e, index, _ in seen if e == epoch))
        assert list(found) == expected


# The steps: the end of the first epoch, and in the middle of the second.
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_resumed_run_goes_on_with_the_very_next_batch(tmp_path, workers, step):
    straight = _fit(
        Data(num_workers=workers), epochs=3, callbacks=[SaveAt(step, tmp_path / "a.ckpt")]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable")
        resumed = _fit(Data(num_workers=workers), epochs=3, resume=tmp_path / "a.ckpt")
    assert len(straight) == 9
    assert resumed == straight[step:]


def test_after_training_the_loader_gives_whole_epochs_again():
    data = Data()
    _fit(data, epochs=1)
    assert len(list(data.train_dataloader())) == 3


def test_during_training_the_pass_that_fills_the_queue_is_whole(tmp_path):
    lengths = []

    class Fill(Callback):
        def on_train_batch_end(self, trainer, *args):
            lengths.append(len(list(trainer.datamodule.train_dataloader(epoch=-1))))

    _fit(Data(), epochs=1, callbacks=[Fill()])
    assert lengths == [3, 3, 3]


# ---------------------------------------------------------------- splits


def test_training_uses_all_images_whatever_labels_may_be_used():
    data = _data(label_fraction=0.2, val_fraction=0.5, batch_size=5)
    assert sorted(_index(data, data.train_dataloader())) == list(range(30))
    assert data.num_train == 30


def test_the_label_fraction_is_what_downstream_may_use():
    data = _data(label_fraction=0.2)
    assert len(data.train_labelled) == 6
    assert np.bincount(data.sources["train"].labels[data.train_labelled]).tolist() == [2, 2, 2]
    gallery, queries = data.test_dataloader()
    assert _index(data, gallery) == data.train_labelled.tolist()
    assert _index(data, queries) == list(range(30, 39))


def test_held_out_labels_are_neither_in_the_gallery_nor_outside_the_labelled():
    data = _data(label_fraction=0.5, val_fraction=0.4)
    gallery, queries = (_index(data, loader) for loader in data.val_dataloader())
    assert len(queries) == 6  # two of five in each class
    assert set(gallery).isdisjoint(queries)
    assert set(gallery) | set(queries) == set(data.train_labelled)


def test_an_official_validation_split_takes_the_place_of_what_would_be_held_out():
    splits = {
        "train": Source([0, 1] * 5),
        "val": Source([0, 1], first=50),
        "test": Source([0, 1], first=60),
    }
    data = _data(splits, val_fraction=0.5)
    gallery, queries = (_index(data, loader) for loader in data.val_dataloader())
    assert gallery == list(range(10))
    assert queries == [10, 11]


def test_without_labels_there_is_nothing_to_validate_on():
    data = _data({"train": Source([UNKNOWN] * 10)})
    assert data.val_dataloader() == []
    assert not data.has_labels()
    assert _first(data)["label"].tolist() == [-1] * 8
    assert data.classes == []


def test_with_nothing_held_out_there_is_nothing_to_validate_on():
    assert _data(val_fraction=0).val_dataloader() == []
    # One image a class: none can be spared.
    assert _data({"train": Source([0, 1, 2, 3])}).val_dataloader() == []


def test_without_a_test_split_testing_says_so_and_prediction_takes_the_training_images():
    data = _data({"train": Source([0, 1] * 4)})
    with pytest.raises(UserError, match=r"no test split: add a `test/` folder"):
        data.test_dataloader()
    assert _index(data, data.predict_dataloader()) == list(range(8))


def test_setup_finds_the_images_once():
    calls = []

    class Counting(Data):
        def load_sources(self):
            calls.append(1)
            return super().load_sources()

    data = Counting()
    for stage in ("fit", "validate", None):
        data.setup(stage)
    assert len(calls) == 1


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(
        UserError, match=r"`batch_size` 31 is larger than the data set of 30 training images"
    ):
        _data(batch_size=31).train_dataloader()
    assert len(_data(batch_size=30).train_dataloader()) == 1


def test_a_global_batch_larger_than_the_data_set_names_the_processes():
    data = _data(batch_size=16)
    data.trainer = Trainer(devices=2, strategy="ddp", max_steps=1, **QUIET)
    with pytest.raises(
        UserError, match=r"`batch_size` 16 x 2 processes = 32 is larger than the data set of 30"
    ):
        data.train_dataloader()


# ---------------------------------------------------------------- broken images


def _torn_folder(root):
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    for torn in (root / "a" / "1.png", root / "b" / "3.png"):
        torn.write_bytes(torn.read_bytes()[:600])
    return root


def _folder(root, **kwargs):
    data = FolderDataModule(
        str(root), **({"image_size": 16, "batch_size": 5, "num_workers": 0} | kwargs)
    )
    data.setup()
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_raises_with_its_path(tmp_path, workers):
    data = _folder(_torn_folder(tmp_path / "images"), num_workers=workers)
    with pytest.raises(
        UserError, match=r"^Cannot read .*images/(a/1|b/3)\.png: .* or set `on_error: skip`\.$"
    ):
        list(_batches(data, data.train_dataloader()))


def test_a_broken_image_raises_in_evaluation_too(tmp_path):
    data = _folder(_torn_folder(tmp_path / "images"))
    with pytest.raises(UserError, match=r"Cannot read .*a/1\.png"):
        list(_batches(data, data.eval_loader("train")))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_skipped_with_one_warning(tmp_path, workers):
    data = _folder(_torn_folder(tmp_path / "images"), num_workers=workers, on_error="skip")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in (0, 1):
            index = _index(data, data.train_dataloader(epoch))
            # 1 and 8 are torn, the next ones come twice.
            assert sorted(index) == [0, 2, 2, 3, 4, 5, 6, 7, 9, 9]
    said = [str(w.message) for w in caught if "Skipped" in str(w.message)]
    assert len(said) == 2
    assert sorted(text.split(":")[0].split("/")[-2:] for text in said) == [
        ["a", "1.png"],
        ["b", "3.png"],
    ]


def test_each_process_warns_of_its_own_broken_images(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with pytest.warns(UserWarning, match=r"^\[rank: 1\] Skipped a.jpg: torn\.$"):
        report_unreadable([("a.jpg", "torn")], "skip", set())


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, r"`image_size` must be >= 1, got 0"),
        ({"batch_size": 0}, r"`batch_size` must be >= 1, got 0"),
        ({"label_fraction": 0.0}, r"`label_fraction` must be in \(0, 1\], got 0.0"),
        ({"label_fraction": 1.1}, r"`label_fraction`"),
        ({"eval_crop": 0.0}, r"`eval_crop` must be in \(0, 1\], got 0.0"),
        ({"val_fraction": 1.0}, r"`val_fraction` must be in \[0, 1\), got 1.0"),
        ({"val_fraction": -0.1}, r"`val_fraction`"),
        ({"prefetch_factor": 0}, r"`prefetch_factor` must be >= 1, got 0"),
        ({"num_workers": -1}, r"`num_workers` must be >= 0, got -1"),
        ({"on_error": "ignore"}, r"`on_error` must be one of raise, skip, got 'ignore'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Data(**arguments)


@pytest.mark.parametrize(("wanted", "got"), [(0, 0), (1, 1)])
def test_the_number_of_workers_is_kept(wanted, got):
    assert _data(num_workers=wanted).train_dataloader().num_workers == got


@pytest.mark.parametrize(
    ("cores", "processes", "workers"), [(1, 1, 0), (2, 1, 1), (15, 1, 14), (16, 4, 3), (128, 1, 16)]
)
def test_by_default_workers_follow_the_cores(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert default_workers(processes) == workers
    data = _data(num_workers=None)
    data.trainer = SimpleNamespace(
        num_devices=processes, world_size=1, global_rank=0, training=False
    )
    assert data.train_dataloader().num_workers == workers


@pytest.mark.parametrize(("workers", "factor", "got"), [(2, 5, 5), (2, None, 2), (0, 5, None)])
def test_batches_made_in_advance(workers, factor, got):
    loader = _data(num_workers=workers, prefetch_factor=factor).train_dataloader()
    assert loader.prefetch_factor == got
    assert len(list(loader)) == 3


def test_squashed_everybody_sees_the_whole_of_a_long_image(tmp_path):
    """The ends of an image three times as wide as high reach evaluation, crops and the fingerprint of banks."""
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(4):
            pixels = np.zeros((40, 120, 3), np.uint8)
            pixels[:, :20, 0] = pixels[:, -20:, 2] = 255  # red on the left, blue on the right
            Image.fromarray(pixels).save(tmp_path / split / "a" / f"{i}.png")
    seen = {}
    for squash in (False, True):
        whole = MoCoV2Augmentation(
            (1, 1),
            crop_ratio=(1, 1),
            jitter_probability=0,
            grey_probability=0,
            blur_probability=0,
        )
        data = FolderDataModule(
            tmp_path,
            image_size=32,
            batch_size=4,
            num_workers=0,
            eval_crop=1.0,
            augmentation=whole,
            squash=squash,
        )
        data.setup()
        data.request({})
        view = next(iter(data.train_dataloader(0)))["views"][0][0]
        image = next(iter(data.eval_loader("test")))["image"][0]
        seen[squash] = [v.float().amax(dim=(1, 2))[[0, 2]].tolist() for v in (view, image)]
        seen[squash, "bank"] = data.sources["train"].served()
    assert seen[False] == [[0, 0], [0, 0]]
    assert all(value > 200 for values in seen[True] for value in values)
    assert seen[False, "bank"] != seen[True, "bank"]
