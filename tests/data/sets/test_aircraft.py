"""FGVC-Aircraft: labels of each level as torchvision reads them, no banner, faults named with file and line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import layouts
from damage import damaged
from ppssl import AircraftDataModule
from ppssl.data.files import FileSource
from ppssl.data.sets.aircraft import Level, read_aircraft
from ppssl.utils.errors import UserError

LEVELS: tuple[Level, ...] = ("variant", "family", "manufacturer")
FILES = (
    "variants.txt",
    *(f"images_variant_{split}.txt" for split in ("trainval", "test", "train", "val")),
    "images_box.txt",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return layouts.aircraft(tmp_path) / "fgvc-aircraft-2013b" / "data"


def _data(root: Path, **kwargs: Any) -> AircraftDataModule:
    small: dict[str, Any] = {"image_size": 16, "batch_size": 4, "num_workers": 0}
    data = AircraftDataModule(str(root), check_counts=False, **small, **kwargs)
    data.setup()
    return data


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", ["trainval", "test"])
def test_images_and_labels_are_torchvisions(home: Path, level: Level, split: str) -> None:
    oracle = torchvision.datasets.FGVCAircraft(home.parents[1], split, level, loader=str)
    source = read_aircraft(home, level)["test" if split == "test" else "train"]
    assert isinstance(source, FileSource)
    got = list(zip(map(str, source.paths), source.labels.tolist(), strict=True))
    assert got == [oracle[i] for i in range(len(oracle))]
    assert source.classes == oracle.classes


def test_the_banner_is_cut_off(tmp_path: Path) -> None:
    layouts.aircraft(tmp_path)
    source, whole = _data(tmp_path).sources["test"], _data(tmp_path, banner=0).sources["test"]
    for i in range(len(source)):
        own, original = np.asarray(source.load(i)), np.asarray(whole.load(i))
        assert original.shape[0] == own.shape[0] + 20 == layouts.HEIGHT + 20
        np.testing.assert_array_equal(own, original[:-20])
        assert original[-15:].min() > 240  # white
        assert own[:-10].min(axis=2).max() < 240
    assert source.annotations(0)["box"].tolist() == pytest.approx([12 / 52, 0.25, 36 / 52, 0.75])
    uncut = whole.annotations(0)["box"].tolist()
    assert uncut == pytest.approx([12 / 52, 10 / 60, 36 / 52, 30 / 60])
    assert source.fingerprint() != whole.fingerprint()


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    """The images without their banner are of the folder that they are cut from."""
    layouts.class_folders(tmp_path, layouts.VARIANTS)
    (tmp_path / "train" / layouts.VARIANTS[0] / "x.heic").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"Pillow does not read were passed over: 1 .heic"):
        _data(tmp_path)


def test_a_box_that_reaches_into_the_banner_ends_above_it(home: Path) -> None:
    file = home / "images_box.txt"
    file.write_text(file.read_text().replace(" 36 30", " 36 55"))
    box = _data(home).sources["train"].annotations(0)["box"].tolist()
    assert box == pytest.approx([12 / 48, 0.25, 36 / 48, 1.0])


def test_an_image_lower_than_the_banner_is_broken(home: Path) -> None:
    data = _data(home, banner=60)
    with pytest.raises(
        UserError, match=r"None of .* can be read.*height is 60 pixels, and `banner` removes 60"
    ):
        next(iter(data.predict_dataloader()))


def test_images_are_the_same_at_each_level(tmp_path: Path) -> None:
    """So that what a teacher saw of them serves all levels."""
    layouts.aircraft(tmp_path)
    prints = {_data(tmp_path, level=level).sources["test"].fingerprint() for level in LEVELS}
    assert len(prints) == 1


def test_without_trainval_checks_and_boxes(home: Path) -> None:
    for name in ("images_variant_train.txt", "images_variant_val.txt", "images_box.txt"):
        (home / name).unlink()
    source = read_aircraft(home, "variant")["train"]
    assert len(source) == 12
    assert source.annotations(0) == {}


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`level` must be one of variant, family, manufacturer"):
        AircraftDataModule("x", level="model")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`banner` must be >= 0"):
        AircraftDataModule("x", banner=-1)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("variants.txt", "727-200", "707-320", "variants.txt, line 2: '707-320' is listed twice"),
        (
            "images_variant_test.txt",
            "727-200",
            "737",
            "test.txt, line 3: '737' is not one of the 3",
        ),
        (
            "images_variant_test.txt",
            "1000148 7",
            "1000185 7",
            "test.txt, line 2: 1000185 is already in lin",
        ),
        (
            "images_variant_test.txt",
            "1000148 7",
            "1000000 7",
            "test.txt, line 1: 1000000 is also a trai",
        ),
        (
            "images_variant_test.txt",
            "1000148 7",
            "1000148,7",
            "test.txt, line 1: expected 2 fields",
        ),
        (
            "images_variant_test.txt",
            "1000148 7",
            "../00148 7",
            "test.txt, line 1: .* is not an image name",
        ),
        (
            "images_variant_test.txt",
            "1000148 7",
            "1999999 7",
            "test.txt: missing images: 1 of 6; the fi",
        ),
        (
            "images_variant_trainval.txt",
            "1000000 707-320",
            "1000000 727-200",
            "train.txt, line 1: im",
        ),
        (
            "images_variant_val.txt",
            "1000111 7",
            "1000000 7",
            "val.txt, line 1: 1000000 is also in .*train",
        ),
        (
            "images_variant_val.txt",
            "1000111 707-320\n",
            "",
            "train.txt: 11 images together with .*, expected 12",
        ),
        ("images_box.txt", "1000037", "1000000", "images_box.txt, line 2: 1000000 is listed twice"),
        ("images_box.txt", "13 11 36", "37 11 36", "images_box.txt, line 1: right and bottom of t"),
    ],
)
def test_faults_are_named(home: Path, file: str, old: str, new: str, words: str) -> None:
    text = (home / file).read_text()
    assert old in text
    (home / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        read_aircraft(home, "variant")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), file=st.sampled_from(FILES))
def test_damaged_metadata_never_give_a_wrong_label(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, file: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "damaged-aircraft"
    home = root / "fgvc-aircraft-2013b" / "data"
    if not root.exists():
        layouts.aircraft(root)
    original = (home / file).read_text()
    (home / file).write_bytes(data.draw(damaged(original)))
    sources, message = {}, ""
    try:
        sources = read_aircraft(home, "variant")
    except UserError as error:
        message = str(error)
    finally:
        (home / file).write_text(original)
    where = r"data/(variants|images_variant_\w+|images_box)\.txt(, line [0-9]+)?: "
    assert sources or re.search(where, message)
    for source in sources.values():
        for i, label in enumerate(source.labels):
            assert source.classes[label] == layouts.VARIANTS[layouts.class_of(source.load(i))]
