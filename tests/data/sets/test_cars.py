"""Stanford Cars: the devkit as torchvision reads it, Parquet as hubs have it; what is damaged is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

import layouts
from ppssl import CarsDataModule
from ppssl.data.files import EncodedSource, FileSource
from ppssl.data.images import read_image
from ppssl.data.sets.cars import read_cars
from ppssl.data.sets.parquet import ParquetSource
from ppssl.utils.errors import UserError

FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return layouts.cars(tmp_path) / "stanford_cars"


def _rows(file: Path) -> list[list[Any]]:
    return [list(row) for row in loadmat(file, squeeze_me=True)["annotations"]]


def _write(file: Path, rows: list[list[Any]], fields: tuple[str, ...] = FIELDS) -> None:
    kinds = [(name, object) for name in fields]
    savemat(file, {"annotations": np.array([[tuple(row) for row in rows]], dtype=kinds)})


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_torchvisions(home: Path, split: str) -> None:
    oracle = torchvision.datasets.StanfordCars(home.parent, split, loader=str)
    source = read_cars(home)[split]
    assert isinstance(source, FileSource)
    expected = [oracle[i] for i in range(len(oracle))]
    got = list(zip(map(str, source.paths), source.labels.tolist(), strict=True))
    assert got == expected
    assert source.classes == oracle.classes


def test_boxes_count_pixels_from_one(home: Path) -> None:
    source = read_cars(home)["train"]
    assert source.annotations(0)["box"].tolist() == [0.25, 0.25, 0.75, 0.75]  # 13, 11, 36, 30


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (4, 0, "annotation 2: class 0 is out of range: it must be 1 to 3"),
        (4, 4, "annotation 2: class 4 is out of range"),
        (4, 1.5, "annotation 2: class 1.5 is out of range"),
        (4, np.nan, r"annotation 2: .* is not a number"),
        (4, "two", r"annotation 2: .*two.* is not a number"),
        (4, np.array([1, 2]), r"annotation 2: .* is not a number"),
        (5, "00001.jpg", "annotation 2: 00001.jpg is already in annotation 1"),
        (5, "../00002.jpg", r"annotation 2: '../00002.jpg' is not an image name"),
        (5, "", "annotation 2: .* is not an image name"),
        (5, "x.jpg", "cars_train_annos.mat: missing images: 1 of 9; the first is .*x.jpg"),
        (2, 5, "annotation 2: right and bottom of its box are less than left and top"),
    ],
)
def test_faults_are_named(home: Path, column: int, value: Any, words: str) -> None:
    file = home / "devkit" / "cars_train_annos.mat"
    rows = _rows(file)
    rows[1][column] = value
    _write(file, rows)
    with pytest.raises(UserError, match=rf"cars_train_annos.mat: .*{words.split('.mat: ')[-1]}"):
        read_cars(home)


def test_test_images_without_labels_are_named(home: Path) -> None:
    """As in ``cars_test_annos.mat``, which lies beside it in the devkit."""
    file = home / "cars_test_annos_withlabels.mat"
    rows = _rows(file)
    _write(file, [[*row[:4], row[5]] for row in rows], (*FIELDS[:4], "fname"))
    with pytest.raises(UserError, match=r"withlabels.mat: its annotations have no class"):
        read_cars(home)
    file.unlink()
    with pytest.raises(UserError, match=r"devkit/cars_test_annos_withlabels.mat is missing"):
        read_cars(home)


def test_other_variables_and_names_that_are_not_distinct(home: Path) -> None:
    meta = home / "devkit" / "cars_meta.mat"
    savemat(meta, {"class_names": np.array([["a", "b", "a"]], dtype=object)})
    with pytest.raises(UserError, match=r"cars_meta.mat: its class names are not distinct"):
        read_cars(home)
    savemat(meta, {"names": 1})
    with pytest.raises(UserError, match=r"cars_meta.mat: it has no variable `class_names`"):
        read_cars(home)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=300),
    at=st.floats(0, 1),
    cut=st.booleans(),
    name=st.sampled_from(["cars_meta.mat", "cars_train_annos.mat"]),
)
def test_damaged_devkits_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, at: float, cut: bool, name: str
) -> None:
    """Truncated, or overwritten at some place: an error with the file, or the right labels."""
    home = tmp_path_factory.getbasetemp() / "damaged" / "stanford_cars"
    if not home.exists():
        layouts.cars(home.parent)
    file = home / "devkit" / name
    original = file.read_bytes()
    start = int(at * len(original))
    damaged = original[:start] + content
    file.write_bytes(damaged if cut else damaged + original[len(damaged) :])
    sources, message = {}, ""
    try:
        sources = read_cars(home)
    except UserError as error:
        message = str(error)
    finally:
        file.write_bytes(original)
    assert sources or "stanford_cars/devkit/cars_" in message
    for source in sources.values():
        seen = [layouts.class_of(source.load(i)) for i in range(len(source))]
        assert source.labels.tolist() == seen


# ---------------------------------------------------------------- Parquet


def _parquet(root: Path, **kwargs: Any) -> CarsDataModule:
    small: dict[str, Any] = {"image_size": 16, "batch_size": 4, "num_workers": 0}
    data = CarsDataModule(str(root), check_counts=False, **small, **kwargs)
    data.setup()
    return data


def test_rows_of_all_files_in_order(tmp_path: Path) -> None:
    data = _parquet(layouts.parquet(tmp_path))
    labels, names = [], []
    for file in sorted((tmp_path / "data").glob("train-*")):
        column = pq.read_table(file)["label"].to_pylist()
        labels += column
        names += [f"{file}, row {k}" for k in range(len(column))]
    source = data.sources["train"]
    assert source.labels.tolist() == labels
    assert [source.name(i) for i in range(len(source))] == names
    assert data.classes == list(layouts.MODELS)


def test_images_of_parquet_files_are_encoded_as_files_are(tmp_path: Path) -> None:
    """So that those that are equal are found by their bytes, and JPEGs decoded at a reduced size."""
    source = _parquet(layouts.parquet(tmp_path)).sources["train"]
    assert isinstance(source, EncodedSource)
    for i in (0, len(source) - 1):
        assert source.encoded_size(i) == len(source.encoded(i))
        assert np.array_equal(np.asarray(source.load(i)), np.asarray(read_image(source.encoded(i))))
    whole = source.load(0)
    assert source.load_reduced(0, min(whole.size) // 2).size == (
        whole.width // 2,
        whole.height // 2,
    )


def test_classes_without_names_and_files_in_the_root(tmp_path: Path) -> None:
    layouts.parquet(tmp_path, names=None)
    assert _parquet(tmp_path / "data").classes == ["class 0", "class 1", "class 2"]


def test_images_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPSSL_CACHE", str(tmp_path / "cache"))
    first = _parquet(layouts.parquet(tmp_path))
    files = sorted((tmp_path / "cache" / "parquet").iterdir())
    copies = [path for path in files if path.suffix == ".arrow"]
    assert {path.suffix for path in files} - {".lock"} == {".arrow"}
    assert len(copies) == 2
    times = [path.stat().st_mtime_ns for path in copies]
    again = _parquet(tmp_path)
    assert [path.stat().st_mtime_ns for path in copies] == times
    assert again.sources["test"].fingerprint() == first.sources["test"].fingerprint()
    other = _parquet(layouts.parquet(tmp_path / "other", names=("x", "y", "z")))
    assert other.sources["test"].fingerprint() != first.sources["test"].fingerprint()


def test_a_broken_image_is_named_by_its_row(tmp_path: Path) -> None:
    layouts.parquet(tmp_path)
    file = tmp_path / "data" / "test-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[2]["image"]["bytes"] = b"no image"
    metadata = pq.read_schema(file).metadata
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), file)
    data = _parquet(tmp_path)
    with pytest.raises(UserError, match=r"Cannot read .*test-00000.*, row 2: not an image"):
        data.on_before_batch_transfer(next(iter(data.predict_dataloader())), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1].update(label=3), "row 1: label 3 is out of range: it must be from 0"),
        (lambda rows: rows[1].update(label=-1), "row 1: label -1 is out of range"),
        (lambda rows: rows[1].update(label=None), "1 of its [0-9] rows have no label"),
        (
            lambda rows: rows[1]["image"].update(bytes=None),
            "have a path instead of the image's by",
        ),
        (lambda rows: rows[1].update(image=None), "have a path instead of the image's bytes"),
        (
            lambda rows: [row.update(label="a") for row in rows],
            "`label` must be an integer, got s",
        ),
        (
            lambda rows: [row.update(image=b"x") for row in rows],
            "`image` must be a struct with `byt",
        ),
        (
            lambda rows: [row.pop("label") for row in rows],
            "columns `image` and `label` are required",
        ),
    ],
)
def test_faults_of_parquet_files_are_named(tmp_path: Path, change: Any, words: str) -> None:
    layouts.parquet(tmp_path)
    file = tmp_path / "data" / "train-00001-of-00002.parquet"
    metadata, rows = pq.read_schema(file).metadata, pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), file)
    with pytest.raises(UserError, match=rf"train-00001-of-00002.parquet: .*{words}"):
        _parquet(tmp_path)


def test_other_faults_of_parquet(tmp_path: Path) -> None:
    layouts.parquet(tmp_path)
    layouts.parquet(tmp_path / "other", names=("x", "y", "z"))
    test = tmp_path / "data" / "test-00000-of-00001.parquet"
    other = tmp_path / "other" / "data" / test.name
    content = test.read_bytes()
    test.write_bytes(other.read_bytes())
    with pytest.raises(
        UserError, match=r"test-.*parquet: its classes differ from those of train-00000"
    ):
        _parquet(tmp_path)
    test.write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"test-.*parquet: not a Parquet file, or damaged"):
        _parquet(tmp_path)
    test.unlink()
    with pytest.raises(UserError, match="has Parquet files of `train` but none of `test`"):
        _parquet(tmp_path)
    with pytest.raises(
        UserError, match=r"train-00000-.*: its classes differ from those of train-00001"
    ):
        ParquetSource(
            [tmp_path / "data" / "train-00001-of-00002.parquet",
             tmp_path / "other" / "data" / "train-00000-of-00002.parquet"]
        )  # fmt: skip
