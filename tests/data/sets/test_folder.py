"""Images in folders: layouts, order and labels, files that are not as one would like."""

import numpy as np
import pytest
import torch
from PIL import Image

from ppssl.data.sets.folder import FolderDataModule, FolderSource
from ppssl.data.source import UNKNOWN
from ppssl.utils.errors import UserError

COLOUR = (200, 100, 50)


def _save(path, image=None, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (12, 8), COLOUR)).save(path, **kwargs)
    return path


def _split(root, spec):
    """``{"class": count}``; the empty name puts images into the folder itself."""
    for name, count in spec.items():
        for i in range(count):
            _save(root / name / f"{i}.png" if name else root / f"{i}.png")


def _data(root, **kwargs):
    data = FolderDataModule(str(root), image_size=16, batch_size=2, num_workers=0, **kwargs)
    data.setup()
    return data


# ---------------------------------------------------------------- layouts


def test_train_val_and_test_folders_are_the_splits(tmp_path):
    _split(tmp_path / "train", {"wren": 2, "finch": 3})
    _split(tmp_path / "val", {"wren": 1})
    _split(tmp_path / "test", {"finch": 1, "wren": 2})
    data = _data(tmp_path)
    assert list(data.sources) == ["train", "val", "test"]
    assert data.classes == ["finch", "wren"]
    assert data.sources["train"].labels.tolist() == [0, 0, 0, 1, 1]
    # Numbered as in training, though the only class here.
    assert data.sources["val"].labels.tolist() == [1]
    assert data.sources["test"].labels.tolist() == [0, 1, 1]
    assert data.sources["val"].labels.dtype == np.int64


def test_class_folders_may_lie_directly_below_the_root(tmp_path):
    _split(tmp_path, {"b": 2, "a": 1})
    data = _data(tmp_path)
    assert list(data.sources) == ["train"]
    assert data.classes == ["a", "b"]
    assert data.sources["train"].labels.tolist() == [0, 1, 1]


def test_images_outside_of_any_folder_have_no_label(tmp_path):
    _split(tmp_path, {"": 3})
    data = _data(tmp_path)
    assert data.classes == []
    assert data.sources["train"].labels.tolist() == [UNKNOWN] * 3
    assert not data.has_labels()


def test_labelled_and_unlabelled_images_may_be_mixed(tmp_path):
    _split(tmp_path / "train", {"": 2, "a": 1})
    _split(tmp_path / "test", {"": 1})
    data = _data(tmp_path)
    assert sorted(data.sources["train"].labels.tolist()) == [UNKNOWN, UNKNOWN, 0]
    assert data.train_labelled.tolist() == [2]
    assert data.sources["test"].labels.tolist() == [UNKNOWN]


def test_folders_within_a_class_belong_to_it(tmp_path):
    _save(tmp_path / "a" / "deep" / "er" / "x.png")
    _save(tmp_path / "b" / "y.png")
    source = FolderSource(tmp_path)
    assert source.classes == ["a", "b"]
    assert source.labels.tolist() == [0, 1]


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    _split(tmp_path / "birds", {"a": 1})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _data("~/birds").num_train == 1


def test_order_is_by_path_and_not_by_the_file_system(tmp_path):
    for name in ("b/2.png", "a/10.png", "b/1.png", "a/9.png"):
        _save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert [source.name(i) for i in range(4)] == [
        str(tmp_path / n) for n in ("a/10.png", "a/9.png", "b/1.png", "b/2.png")
    ]
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_hidden_files_other_files_and_folders_named_like_images_are_left_out(tmp_path):
    _save(tmp_path / "a" / "seen.png")
    _save(tmp_path / "a" / "._seen.png")
    _save(tmp_path / ".trash" / "x.png")
    _save(tmp_path / "a" / ".thumbs" / "x.png")
    (tmp_path / "a" / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    source = FolderSource(tmp_path)
    assert [path.name for path in source.paths] == ["seen.png"]
    assert source.classes == ["a"]


def test_a_root_within_a_hidden_folder_is_fine(tmp_path):
    _save(tmp_path / ".cache" / "a" / "x.png")
    assert len(FolderSource(tmp_path / ".cache")) == 1


@pytest.mark.parametrize(
    "name", ["x.PNG", "x.JPG", "x.Jpeg", "x.webp", "x.bmp", "x.tif", "x.gif", "x.ppm"]
)
def test_the_extension_may_be_any_usual_one_in_any_case(tmp_path, name):
    _save(tmp_path / name)
    view = FolderSource(tmp_path).load(0)
    assert view.size == (12, 8)
    assert np.abs(np.asarray(view, dtype=int) - COLOUR).max() <= 12


# ---------------------------------------------------------------- pixels


def _load(tmp_path, image, name="x.png", **kwargs):
    _save(tmp_path / name, image, **kwargs)
    loaded = FolderSource(tmp_path).load(0)
    assert loaded.mode == "RGB"
    return np.asarray(loaded).astype(int)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.new("RGB", (12, 8), COLOUR).convert(mode)
    expected = np.asarray(image.convert("RGBA").convert("RGB"), dtype=int)
    np.testing.assert_array_equal(_load(tmp_path, image), expected)


def test_a_transparent_palette_becomes_rgb(tmp_path):
    image = Image.new("RGB", (12, 8), COLOUR).convert("P")
    # A palette of few colours.
    assert np.abs(_load(tmp_path, image, transparency=0) - COLOUR).max() <= 60


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (12, 8), (55, 155, 205, 0))  # 255 minus COLOUR
    assert np.abs(_load(tmp_path, image, "x.jpg", quality=100) - COLOUR).max() <= 3


def test_sixteen_bits_become_eight_without_clipping(tmp_path):
    """Pillow's own conversion makes nearly all of it white."""
    levels = (np.arange(96).reshape(8, 12) * 680).astype(np.uint16)
    pixels = _load(tmp_path, Image.fromarray(levels))
    np.testing.assert_array_equal(pixels, np.repeat(levels[..., None] // 256, 3, axis=-1))


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 180), (6, 270), (8, 90)])
def test_images_are_turned_upright(tmp_path, orientation, turn):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    stored = upright.rotate(-turn, expand=True)  # what the camera held otherwise has written
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(_load(tmp_path, stored, exif=exif), np.asarray(upright))


def test_a_loaded_image_does_not_keep_its_file_open(tmp_path):
    _save(tmp_path / "x.png")
    image = FolderSource(tmp_path).load(0)
    (tmp_path / "x.png").unlink()
    assert image.getpixel((0, 0)) == COLOUR


def test_batches_come_out_of_folders(tmp_path):
    _split(tmp_path / "train", {"a": 2, "b": 2})
    _save(tmp_path / "train" / "b" / "grey.png", Image.new("L", (30, 9), 77))
    _split(tmp_path / "test", {"a": 1})
    data = _data(tmp_path)
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    assert all(batch["views"][0].shape == (2, 3, 16, 16) for batch in batches)
    test = next(iter(data.predict_dataloader()))
    assert torch.equal(
        test["image"], torch.tensor(COLOUR, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    )
    assert test["index"].tolist() == [5]


# ---------------------------------------------------------------- errors


def test_a_class_that_training_does_not_know_is_named(tmp_path):
    _split(tmp_path / "train", {"a": 1, "b": 1})
    _split(tmp_path / "test", {"a": 1, "zebra": 1})
    with pytest.raises(
        UserError, match=r"test/zebra is not one of the 2 classes of the training images"
    ):
        _data(tmp_path)


def test_a_missing_root_is_named_with_the_nearest_one(tmp_path):
    (tmp_path / "birds").mkdir()
    with pytest.raises(
        UserError, match=r"`data.root` is not a folder: .*/brids \(did you mean birds\?\)"
    ):
        _data(tmp_path / "brids")
    with pytest.raises(UserError, match=r"`data.root` is not a folder: .*/xyz\.$"):
        _data(tmp_path / "xyz")
    with pytest.raises(UserError, match=r"`data.root` is not a folder: .*/no/such\.$"):
        _data(tmp_path / "no" / "such")


def test_a_file_is_no_root(tmp_path):
    _save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"`data\.root` is not a folder"):
        _data(tmp_path / "x.png")


@pytest.mark.parametrize("content", [[], ["notes.txt"], [".hidden/x.png"]])
def test_a_folder_without_images_says_what_is_taken(tmp_path, content):
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(
        UserError,
        match=r"No images in .*: put images that Pillow reads .*\.png.* there, or in class folders below",
    ):
        _data(tmp_path)


def test_an_empty_test_folder_is_an_error_and_not_no_test_split(tmp_path):
    _split(tmp_path / "train", {"a": 2})
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"No images in .*/test"):
        _data(tmp_path)
