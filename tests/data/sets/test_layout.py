"""What is read of a folder as people have it: names of splits, depth, endings; and what is said of it."""

import logging
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ppssl.data.scan import image_endings, scan_images
from ppssl.data.sets.folder import FolderDataModule
from ppssl.data.sets.layout import SPELLINGS, find_layout
from ppssl.utils.errors import UserError


def _save(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, "PNG")
    return root


def _data(root: Path) -> FolderDataModule:
    data = FolderDataModule(str(root), image_size=8, batch_size=1, num_workers=0)
    data.setup()
    return data


def _read(root: Path, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO):
        _data(root)
    (line,) = [r.message for r in caplog.records if r.message.startswith("Read ")]
    return line


CASES = st.sampled_from([str.lower, str.upper, str.title])
SPLITS = st.fixed_dictionaries(
    {"train": st.sampled_from(SPELLINGS["train"])},
    optional={"val": st.sampled_from(SPELLINGS["val"]), "test": st.sampled_from(SPELLINGS["test"])},
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(splits=SPLITS, case=CASES, above=st.lists(st.sampled_from(["images", "a"]), max_size=3))
def test_every_spelling_and_depth(
    tmp_path_factory: pytest.TempPathFactory, splits: dict[str, str], case: object, above: list[str]
) -> None:
    root = tmp_path_factory.mktemp("layout")
    home = root.joinpath(*above)
    for name in splits.values():
        _save(home / case(name), "wren/1.png", "finch/1.png")  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = _data(root)
    assert list(data.sources) == [name for name in SPELLINGS if name in splits]
    assert data.classes == ["finch", "wren"]
    assert all(len(source) == 2 for source in data.sources.values())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "Training/a/1.png"], "are both the split `train`: keep one"),
        (["train/a/1.png", "val/a/1.png", "dev/a/1.png"], "dev and .*val are both the split `val`"),
        (["train/a/1.png", "eval/a/1.png"], "eval may be one split or another: rename it `val` or"),
        (["train/a/1.png", "TrainVal/a/1.png"], "TrainVal may be .*: rename it `train`"),
        (["val/a/1.png", "test/a/1.png"], "named like splits, but none is `train`: test, val"),
        (["test/a/1.png"], "none is `train`: test"),
        (["seg_train/a/1.png", "seg_test/a/1.png"], "none is `train`: seg_test, seg_train"),
        (["train2017/1.png", "val2017/1.png"], "none is `train`: train2017, val2017"),
        (["wren/train/1.png", "finch/train/1.png"], "finch and wren in .* both have a training"),
    ],
)
def test_layouts_that_cannot_be_meant_are_one_line(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _data(_save(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (["train/a/1.png", "b/1.png"], ["a"], "1 folders beside .*train are not read: b. If they"),
        (["train/1.png", "bus/1.png", "car/1.png"], [], "2 folders beside .* not read: bus, car"),
        (
            ["train_1/1.png", "wren/1.png"],
            ["train_1", "wren"],
            "class `train_1` is named like a sp",
        ),
        (["birds/a/1.png", "birds/b/1.png"], ["birds"], "one class, `birds`, with 2 folders in it"),
        (["train/x/a/1.png", "train/x/b/1.png"], ["x"], "one class, `x`, with 2 folders in it"),
    ],
)
def test_suspicious_layouts_warn(
    tmp_path: Path, names: list[str], classes: list[str], message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        assert _data(_save(tmp_path, *names)).classes == classes


@pytest.mark.parametrize(
    "names",
    [
        ["wren/1.png", "finch/1.png"],
        ["1.png", "2.png"],
        ["wren/train/1.png", "finch/1.png"],  # a folder in a class
        ["train/a/1.png", "train/b/deep/1.png", "train/b/deep/er/1.png"],
        ["strain/1.png", "contest/1.png", "valley/1.png"],  # no word of them is a split
    ],
)
def test_plain_layouts_do_not_warn(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "notes").mkdir()
    _save(tmp_path, *names)
    (tmp_path / "notes").rmdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _data(tmp_path).num_train == len(names)


def test_folders_without_images_beside_splits_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("")
    layout = find_layout(_save(tmp_path, "images/train/a/1.png", "images/test/a/1.png"))
    assert layout.home == tmp_path / "images"
    assert layout.unread == []


# ---------------------------------------------------------------- endings


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(ending=st.sampled_from(sorted(image_endings())), case=CASES)
def test_every_ending_that_pillow_reads_is_found(
    tmp_path_factory: pytest.TempPathFactory, ending: str, case: object
) -> None:
    root = tmp_path_factory.mktemp("ending")
    name = f"1{case(ending)}"  # type: ignore[operator]
    (root / name).write_bytes(b"")
    assert [path.name for path in scan_images(root).paths] == [name]


def test_the_endings_people_have() -> None:
    names = ".jpg .jpeg .jfif .jpe .png .apng .bmp .gif .tif .tiff .webp .avif .jp2 .j2k .ppm .pgm .mpo .ico .tga .psd"
    assert set(names.split()) <= image_endings()
    assert not {".pdf", ".mpg", ".h5", ".eps", ".txt", ""} & image_endings()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "TIFF", "GIF", "BMP"])
def test_files_without_ending_are_what_their_header_says(tmp_path: Path, kind: str) -> None:
    (tmp_path / "wren").mkdir()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "wren" / "ILSVRC_0001", kind)
    for name in ("README", "Makefile", "P6", "empty"):
        (tmp_path / "wren" / name).write_text(name if name != "empty" else "")
    scan = scan_images(tmp_path)
    assert [path.name for path in scan.paths] == ["ILSVRC_0001"]
    assert scan.passed_over == {"no image, without ending": (4, "wren/Makefile")}
    red = _data(tmp_path).sources["train"].load(0).getpixel((4, 4))
    assert red[0] > 180
    assert max(red[1:]) < 20


# ---------------------------------------------------------------- what is said


def test_one_line_says_what_was_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(
        tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", "train/0.png", "test/a/1.png"
    )
    _save(tmp_path, "train/a/.1.png", "train/a/.2.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("")
    (tmp_path / "test" / "gone.jpg").symlink_to("nothing")
    assert _read(tmp_path, caplog) == (
        f"Read 5 images of 2 classes (1 without label) from {tmp_path}: train 4, test 1; passed over: 2 hidden "
        "(a/.1.png), 1 .txt (a/notes.txt), 1 broken links (gone.jpg)."
    )


def test_it_is_said_once_and_of_images_without_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = FolderDataModule(str(_save(tmp_path, "1.png", "2.png")), num_workers=0)
    with caplog.at_level(logging.INFO):
        data.setup()
        data.setup()
    lines = [r.message for r in caplog.records if r.message.startswith("Read")]
    assert lines == [f"Read 2 images without labels from {tmp_path}: train 2."]


def test_images_that_pillow_does_not_read_warn(tmp_path: Path) -> None:
    _save(tmp_path, "a/1.png", "a/2.HEIC", "b/1.heic", "b/2.cr2")
    with pytest.warns(UserWarning, match="were passed over") as said:
        assert _data(tmp_path).classes == ["a"]
    text = " ".join(str(warning.message) for warning in said)
    assert "does not read were passed over: 2 .heic (a/2.HEIC), 1 .cr2 (b/2.cr2). Convert" in text
    assert "No class was made of 1 folders without images (b)" in text


def test_a_folder_of_nothing_else_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No images in .* \(but 2 \.heic\): put images"):
        _data(_save(tmp_path, "a/1.heic", "a/2.heic"))


def test_published_sets_take_the_spellings_and_say_what_they_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ppssl import CUBDataModule

    _save(tmp_path, "Training/a/1.png", "valid/a/1.png", "TEST/a/1.png", "valid/a/.x.png")
    data = CUBDataModule(str(tmp_path), check_counts=False, num_workers=0)
    with caplog.at_level(logging.INFO):
        data.setup()
    line = f"Read 3 images of 1 class from {tmp_path}: train 2, test 1; passed over: 1 hidden (a/.x.png)."
    assert line in caplog.text
