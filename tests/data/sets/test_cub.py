"""CUB's metadata: read as a slow join of the files reads it, or an error that names file and line; boxes and parts."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import layouts
from damage import damaged
from ppssl import CUBDataModule
from ppssl.data.files import FileSource
from ppssl.data.sets.cub import read_cub
from ppssl.utils.errors import UserError

FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
PLACES = ("bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return layouts.cub(tmp_path) / "CUB_200_2011"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.cub(tmp_path_factory.mktemp("cub")) / "CUB_200_2011"


def _pairs(home: Path, name: str) -> dict[str, str]:
    lines = [line.split(" ") for line in (home / name).read_text().splitlines()]
    return {line[0]: line[1] for line in lines}


def _edit(file: Path, line: int, old: str, new: str) -> None:
    lines = file.read_text().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    file.write_text("".join(lines))


def _sources(home: Path) -> dict[str, FileSource]:
    return {name: s for name, s in read_cub(home).items() if isinstance(s, FileSource)}


def test_splits_and_labels_are_those_of_a_join_by_image(home: Path) -> None:
    images, labels = _pairs(home, "images.txt"), _pairs(home, "image_class_labels.txt")
    split = _pairs(home, "train_test_split.txt")
    for name, flag in (("train", "1"), ("test", "0")):
        source = _sources(home)[name]
        expected = [(images[k], int(labels[k]) - 1) for k in images if split[k] == flag]
        paths = [path.relative_to(home / "images").as_posix() for path in source.paths]
        assert list(zip(paths, source.labels.tolist(), strict=True)) == expected
    assert _sources(home)["train"].classes == list(layouts.SPECIES)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("\n", " \n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n".join(reversed(text.splitlines())),
    ],
    ids=["BOM", "CRLF", "CR", "tabs", "blank lines", "no end", "reversed"],
)
def test_what_means_the_same_is_read_the_same(home: Path, file: str, change) -> None:  # type: ignore[no-untyped-def]
    before = _sources(home)
    text = (home / file).read_text()
    (home / file).write_bytes(change(text).encode())
    for name, source in _sources(home).items():
        assert source.paths == before[name].paths
        assert source.labels.tolist() == before[name].labels.tolist()
        assert source.classes == before[name].classes


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), file=st.sampled_from(FILES + PLACES))
def test_damaged_metadata_never_give_a_wrong_label(shared: Path, data, file: str) -> None:  # type: ignore[no-untyped-def]
    original = (shared / file).read_text()
    (shared / file).write_bytes(data.draw(damaged(original, swaps=True)))
    sources, message = {}, ""
    try:
        sources = _sources(shared)
    except UserError as error:
        message = str(error)
    finally:
        (shared / file).write_text(original)
    names = "|".join(re.escape(name) for name in FILES + PLACES)
    assert sources or re.search(rf"CUB_200_2011/({names})(, line [0-9]+)?: ", message)
    for source in sources.values():
        for path, label in zip(source.paths, source.labels, strict=True):
            assert source.classes[label] == path.parent.name == layouts.SPECIES[label]
        for i in range(len(source)):  # a place that a line has lost is not made up
            known = source.annotations(i)
            assert known["box"].isfinite().all()
            assert known["points"].shape[1] == 2
            assert ((known["points"] >= 0) & (known["points"] <= 1) | known["points"].isnan()).all()


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "words"),
    [
        ("images.txt", 2, "2 ", "1 ", "images.txt, line 2: number 1 is already in line 1"),
        ("images.txt", 15, "15 ", "16 ", "images.txt, line 15: number 15 is missing: 16 follows"),
        ("images.txt", 1, "1 ", "0 ", "images.txt, line 1: 0 is out of range: it must be at least"),
        ("images.txt", 3, ".jpg", ".jpg x", "images.txt, line 3: expected 2 fields, got 3"),
        ("images.txt", 3, "001.", "../001.", r"images.txt, line 3: '\.\./001.* is not <class fold"),
        (
            "images.txt",
            4,
            "_0004_796004",
            "_0001_796001",
            "images.txt, line 4: .* is already in line 1",
        ),
        (
            "images.txt",
            4,
            "_0004_796004",
            "_9",
            "images.txt: missing images: 1 of 15; the first is /",
        ),
        (
            "image_class_labels.txt",
            5,
            " 1",
            " 4",
            "labels.txt, line 5: 4 is out of range: .* 1 to 3",
        ),
        ("image_class_labels.txt", 5, " 1", " 0", "labels.txt, line 5: 0 is out of range"),
        (
            "image_class_labels.txt",
            5,
            " 1",
            " 2",
            "line 5: class 2 is '002.* the image in '001",
        ),
        ("image_class_labels.txt", 5, " 1", " one", "line 5: 'one' is not a whole number"),
        (
            "image_class_labels.txt",
            15,
            "15 3\n",
            "",
            "_labels.txt: 14 images, but images.txt h",
        ),
        ("train_test_split.txt", 5, " 1", " 2", "split.txt, line 5: 2 is out of range: .* 0 to 1"),
        ("classes.txt", 2, "002.", "001.", "line [67]: class 2 is '001.Laysan"),
        (
            "classes.txt",
            2,
            "002.Laysan_Albatross",
            layouts.SPECIES[0],
            "classes.txt, line 2: .* is already in line 1",
        ),
        (
            "bounding_boxes.txt",
            2,
            "24.0",
            "0.0",
            "boxes.txt, line 2: width and height of the box must be > 0, got 0 x 20",
        ),
        (
            "bounding_boxes.txt",
            2,
            "24.0",
            "wide",
            "boxes.txt, line 2: '12.0 10.0 wide 20.0' are not num",
        ),
        ("bounding_boxes.txt", 2, "24.0", "inf", "boxes.txt, line 2: .* are not finite numbers"),
        (
            "parts/part_locs.txt",
            16,
            "2 1 ",
            "1 1 ",
            "locs.txt, line 16: part 1 of image 1 is already in lin",
        ),
        ("parts/part_locs.txt", 16, "2 1 ", "2 16 ", "locs.txt, line 16: 16 is out of range"),
        ("parts/part_locs.txt", 225, "15 15 24.0 17.0 1\n", "", "part 15 of image 15 is missing"),
    ],
)
def test_faults_are_named(home: Path, file: str, line: int, old: str, new: str, words: str) -> None:
    if file == "parts/part_locs.txt" and line == 225:
        lines = (home / file).read_text().splitlines(keepends=True)
        old = lines[-1]
    _edit(home / file, line, old, new)
    with pytest.raises(UserError, match=words):
        read_cub(home)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "classes.txt: the file is empty"),
        (
            "1 001.X\n".encode("utf-16"),
            "classes.txt: the encoding is UTF-16; save the file as UTF-8",
        ),
        ("1 a\n2 Möwe\n".encode("latin-1"), "classes.txt: line 2 is not UTF-8"),
        (b"1 a\n2 b\0\n", "classes.txt: line 2 contains a NUL character"),
    ],
)
def test_odd_files_are_named(home: Path, content: bytes, words: str) -> None:
    (home / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_cub(home)


def test_missing_files_are_named(home: Path) -> None:
    (home / "train_test_split.txt").unlink()
    with pytest.raises(UserError, match=r"train_test_split.txt: cannot be read: No such file"):
        read_cub(home)


def test_boxes_and_points_are_fractions_of_the_image(home: Path) -> None:
    source = _sources(home)["test"]  # its first image is the second of its class: a pixel wider
    known = source.annotations(0)
    assert known["box"].tolist() == pytest.approx([12 / 49, 0.25, 36 / 49, 0.75])
    lines = (home / "parts" / "part_locs.txt").read_text().splitlines()[15:30]
    for (_, _, x, y, visible), point in zip(map(str.split, lines), known["points"], strict=True):
        if visible == "1":
            assert point.tolist() == pytest.approx([float(x) / 49, float(y) / 40])
        else:
            assert point.isnan().all()
    picture = np.asarray(source.load(0)).astype(int).sum(axis=2)
    left, top, right, bottom = (known["box"].numpy() * [49, 40, 49, 40]).round().astype(int)
    inside = picture[top + 2 : bottom - 2, left + 2 : right - 2]
    assert inside.min() > np.delete(picture, np.s_[top - 2 : bottom + 2], axis=0).max() + 100


def test_boxes_turn_with_the_image(home: Path) -> None:
    source = _sources(home)["train"]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(source.paths[0]) as image:
            image.load()
        image.save(source.paths[0], exif=exif)
        bright = np.asarray(source.load(0)).astype(int).sum(axis=2) > 350
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        height, width = bright.shape
        seen = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]  # fmt: skip
        known = source.annotations(0)
        assert known["box"].tolist() == pytest.approx(seen, abs=0.03), orientation
        x, y = known["points"][~known["points"].isnan().any(dim=1)].T
        assert seen[0] - 0.03 <= x.min()
        assert x.max() <= seen[2] + 0.03
        assert seen[1] - 0.03 <= y.min()
        assert y.max() <= seen[3] + 0.03


def test_boxes_and_parts_may_be_missing(home: Path) -> None:
    (home / "bounding_boxes.txt").unlink()
    (home / "parts" / "part_locs.txt").unlink()
    assert _sources(home)["train"].annotations(0) == {}


def test_attributes_of_the_classes(home: Path, tmp_path: Path) -> None:
    data = CUBDataModule(str(tmp_path))
    names, share = data.attributes()
    assert names[0] == "has_bill_shape::curved_(up_or_down)"
    np.testing.assert_allclose(share[:, 1], [0.2077922, 0, 1], atol=1e-6)
    assert share.dtype == np.float32
    (tmp_path / "attributes.txt").rename(home / "attributes" / "attributes.txt")
    assert data.attributes()[0] == names
    table = home / "attributes" / "class_attribute_labels_continuous.txt"
    _edit(table, 2, "25.0", "125.0")
    with pytest.raises(
        UserError, match=r"continuous.txt, line 2: percentages must be from 0 to 100"
    ):
        data.attributes()
    table.write_text("1 2 3\n")
    with pytest.raises(UserError, match=r"continuous.txt: 1 lines for 3 classes"):
        data.attributes()
    with pytest.raises(UserError, match="has no CUB_200_2011"):
        CUBDataModule(str(tmp_path / "other")).attributes()
