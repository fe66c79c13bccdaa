import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms import v2

from ppssl import (
    PPSSL,
    DatasetDataModule,
    FolderDataModule,
    RunCheckpoint,
    UserError,
    load_encoder,
)
from ppssl.data.files import FileSource
from ppssl.data.sets.any_dataset import RowSource, as_image
from ppssl.losses.contrastive import MoCo
from shard_files import write_shards

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8, "num_workers": 0}


class Pairs(Dataset[Any]):
    """Pairs of a PIL image and a label."""

    def __init__(self, files: list[Path], labels: list[Any]) -> None:
        self.files, self.of_file = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        return Image.open(self.files[i]), self.of_file[i]


class Dicts(Pairs):
    def __getitem__(self, i: int) -> Any:
        return {"image": np.asarray(Image.open(self.files[i])), "label": self.of_file[i]}


class Images(Pairs):
    def __getitem__(self, i: int) -> Any:
        return Image.open(self.files[i])


class WithTargets(Pairs):
    """Its labels are an attribute: no image has to be read for them."""

    def __init__(self, files: list[Path], labels: list[Any]) -> None:
        super().__init__(files, labels)
        self.targets, self.classes = labels, ["class0", "class1", "class2"]


def _tensors(files: list[Path], labels: list[int], dtype: torch.dtype) -> TensorDataset:
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(f)) for f in files]))
    images = pixels.permute(0, 3, 1, 2)
    images = images / 255 if dtype.is_floating_point else images
    return TensorDataset(images, torch.tensor(labels))


def _hugging_face(files: list[Path], labels: list[int]) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["class0", "class1", "class2"])
    )
    columns = {"image": [str(f) for f in files], "label": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def _frame(files: list[Path], names: list[str]) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"path": files, "class": names})


KINDS: dict[str, Callable[[list[Path], list[int], list[str], Path], Any]] = {
    "pairs": lambda files, labels, names, root: Pairs(files, labels),
    "pairs with names": lambda files, labels, names, root: Pairs(files, names),
    "dicts": lambda files, labels, names, root: Dicts(files, labels),
    "targets": lambda files, labels, names, root: WithTargets(files, labels),
    "uint8 tensors": lambda files, labels, names, root: _tensors(files, labels, torch.uint8),
    "float tensors": lambda files, labels, names, root: _tensors(files, labels, torch.float32),
    "ImageFolder": lambda files, labels, names, root: ImageFolder(root / "train"),
    "files and labels": lambda files, labels, names, root: list(zip(files, labels, strict=True)),
    "dict of lists": lambda files, labels, names, root: {"file": files, "target": names},
    "arrow": lambda files, labels, names, root: pa.table(
        {"image": [f.read_bytes() for f in files], "label": labels}
    ),
    "pandas": lambda files, labels, names, root: _frame(files, names),
    "shards": lambda files, labels, names, root: write_shards(
        root / "train", root.parent / "shards" / "birds-{000..001}.tar"
    ),
    "Hugging Face": lambda files, labels, names, root: _hugging_face(files, labels),
}


@pytest.fixture
def rows(image_folder: Path) -> tuple[list[Path], list[int], list[str], Path]:
    files = sorted(image_folder.glob("train/*/*.png"))
    names = [file.parent.name for file in files]
    return files, [int(name[-1]) for name in names], names, image_folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_batches_of_the_folder(kind: str, rows: Any) -> None:
    expected = FolderDataModule(str(rows[-1]), **SMALL)
    data = DatasetDataModule(KINDS[kind](*rows), **SMALL)
    for module in (expected, data):
        module.setup()
    assert data.sources["train"].labels.tolist() == rows[1]
    assert len(data.classes) == 3
    for ours, theirs in zip(data.train_dataloader(2), expected.train_dataloader(2), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["index"].equal(theirs["index"])
        assert ours["label"].equal(theirs["label"])
        for a, b in zip(ours["views"], theirs["views"], strict=True):
            assert a.equal(b)
    assert data.train_fit.tolist() == expected.train_fit.tolist()


class Stop(Callback):
    """Ends the run in mid-epoch."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["pairs with names", "shards"])
def test_it_trains_evaluates_saves_and_resumes(kind: str, rows: Any, tmp_path: Path) -> None:
    train = KINDS[kind](*rows)

    def run(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
        torch.manual_seed(0)
        test = ImageFolder(rows[-1] / "test")
        data = DatasetDataModule(train, test=test, **SMALL)
        model = PPSSL("resnet_small", backbone_kwargs={"width": 4}, contrastive=MoCo(dim=8))
        keep = RunCheckpoint(dirpath=folder, every_n_train_steps=1)
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "max_epochs": 2}
        trainer = Trainer(callbacks=[keep, *callbacks], default_root_dir=folder, **options)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        if ckpt_path is not None:
            assert trainer.test(model, data, verbose=False)[0]["test/knn_top1"] >= 0
        return dict(model.state_dict())

    straight = run(tmp_path / "straight")
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        run(tmp_path / "cut", Stop())
    resumed = run(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "last.ckpt")
    assert all(straight[name].equal(resumed[name]) for name in straight)
    images = torch.rand(2, 3, 32, 32)
    assert load_encoder(str(tmp_path / "cut" / "last.ckpt"))(images).shape == (2, 32)


def test_files_are_read_as_files_and_other_rows_as_rows(rows: Any) -> None:
    files, labels, _, root = rows
    for train, source in [
        (files, FileSource),
        ([str(f) for f in files], FileSource),
        (ImageFolder(root / "train"), FileSource),
        (Images(files, labels), RowSource),
        ([Image.open(f) for f in files], RowSource),
    ]:
        data = DatasetDataModule(train, **SMALL)
        data.setup()
        assert type(data.sources["train"]) is source
    assert not data.has_labels()
    assert data.classes == []


def test_a_folders_own_transform_and_reader_are_used(rows: Any) -> None:
    """Its transform is not passed over."""
    _, labels, _, root = rows
    half = v2.Resize((20, 24))
    with_target = ImageFolder(root / "train", target_transform=lambda label: label)
    read = DatasetFolder(root / "train", lambda path: np.zeros((5, 6, 3), np.uint8), (".png",))
    for train, size in (
        (ImageFolder(root / "train", transform=half), (24, 20)),
        (with_target, (48, 40)),
        (read, (6, 5)),
    ):
        data = DatasetDataModule(train, **SMALL)
        data.setup()
        assert type(data.sources["train"]) is RowSource
        assert data.sources["train"].labels.tolist() == labels
        assert data.sources["train"].load(3).size == size
    views = ImageFolder(root / "train", transform=lambda image: [image, image])  # as of lightly
    data = DatasetDataModule(views, **SMALL)
    data.setup()
    with pytest.raises(UserError, match=r"`list` is no image: give a PIL image.*before augmentati"):
        next(iter(data.train_dataloader(0)))


def test_labels(rows: Any) -> None:
    files = rows[0][:5]

    def labels(values: Any, **kwargs: Any) -> tuple[list[int], list[str]]:
        data = DatasetDataModule({"image": files, "label": values}, **SMALL, **kwargs)
        data.setup()
        return data.sources["train"].labels.tolist(), data.classes

    assert labels([2, 0, None, -1, float("nan")]) == (
        [2, 0, -1, -1, -1],
        ["class 0", "class 1", "class 2"],
    )
    assert labels(np.array([1, 0, 1, 0, 1])) == ([1, 0, 1, 0, 1], ["class 0", "class 1"])
    assert labels(["wren", "finch", None, "wren", "wren"]) == (
        [1, 0, -1, 1, 1],
        ["finch", "wren"],
    )
    given = labels(["wren", "finch", "wren", "wren", "wren"], class_names=["wren", "owl", "finch"])
    assert given == ([0, 2, 0, 0, 0], ["wren", "owl", "finch"])


def test_other_splits_have_the_classes_of_the_training_images(rows: Any) -> None:
    train = {"image": rows[0], "label": rows[2]}
    test = {"image": rows[0][:2], "label": ["class2", "class0"]}
    data = DatasetDataModule(train, test=test, **SMALL)
    data.setup()
    assert data.sources["test"].labels.tolist() == [2, 0]
    with pytest.raises(UserError, match=r"`test` has the label 'owl', which is none of the 3"):
        DatasetDataModule(train, test=test | {"label": ["owl", "class0"]}, **SMALL).setup()


def test_labels_that_a_data_set_changes_are_those_it_gives(rows: Any) -> None:
    """Its lists and class names are those of before."""
    files, labels, _, root = rows
    coarse = ImageFolder(root / "train", target_transform=lambda label: label // 2)
    listed = WithTargets(files, labels)
    listed.target_transform = lambda label: label // 2  # type: ignore[attr-defined]
    listed.of_file = [label // 2 for label in labels]
    for train in (coarse, listed, Subset(coarse, range(len(files)))):
        data = DatasetDataModule(train, **SMALL)
        data.setup()
        assert data.sources["train"].labels.tolist() == [label // 2 for label in labels]
        assert data.classes == ["class 0", "class 1"]


@pytest.mark.parametrize("kind", ["pairs", "dicts", "files", "rows of a list", "paths in dicts"])
def test_broken_images_are_skipped_from_setup_to_the_fingerprint(
    kind: str, rows: Any, tmp_path: Path
) -> None:
    """Their labels and pixels are asked for before they are served; a file that is missing is broken too."""
    files, labels = [tmp_path / "gone.png", *rows[0]], [0, *rows[1]]
    if kind != "files":
        files[0].write_bytes(b"none")
    train: dict[str, Callable[[], Any]] = {
        "pairs": lambda: Pairs(files, labels),
        "dicts": lambda: Dicts(files, labels),
        "files": lambda: files,
        "rows of a list": lambda: [(file.read_bytes(), 0) for file in files],
        "paths in dicts": lambda: [{"image": str(file), "label": 0} for file in files],
    }
    data = DatasetDataModule(train[kind](), test=train[kind](), on_error="skip", **SMALL)
    data.setup()
    assert len(data.sources["train"].fingerprint()) == 16
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for split in ("train", "test"):
            batch = next(iter(data.eval_loader(split)))
            assert data.on_before_batch_transfer(batch, 0)["index"][0] % len(files) == 1
    named = [str(w.message) for w in caught if "Skipped" in str(w.message)]
    if kind in ("files", "paths in dicts"):
        assert [text.startswith(f"Skipped {files[0]}: ") for text in named] == [True]
    else:
        assert [text.split(":")[0] for text in named] == [
            "Skipped image 0 of train",
            "Skipped image 0 of test",
        ]


class WithColumns(Pairs):
    """Its ``columns`` are its own affair: it is no table."""

    columns = ("file", "number")


def test_labels_of_pandas_and_data_sets_with_columns(rows: Any) -> None:
    pandas = pytest.importorskip("pandas")
    files, labels, *_ = rows
    for values, known in (
        (pandas.array([0, None, 1], dtype="Int64"), [0, -1, 1]),
        (pandas.array(["a", None, "b"], dtype="string"), [0, -1, 1]),
    ):
        frame = pandas.DataFrame({"file": [str(file) for file in files[:3]], "label": values})
        data = DatasetDataModule(frame, **SMALL)
        data.setup()
        assert data.sources["train"].labels.tolist() == known
    data = DatasetDataModule(WithColumns(files, labels), **SMALL)
    data.setup()
    assert data.sources["train"].labels.tolist() == labels


def test_the_fingerprint_follows_the_images(rows: Any) -> None:
    def fingerprint(images: Any) -> str:
        data = DatasetDataModule(images, **SMALL)
        data.setup()
        return data.sources["train"].fingerprint()

    images = [Image.open(f) for f in rows[0]]
    first = fingerprint(images)
    assert fingerprint(list(images)) == first
    assert fingerprint(images[1:]) != first
    assert fingerprint([images[-1], *images[1:]]) != first
    assert fingerprint(rows[0]) == fingerprint([str(f) for f in rows[0]])


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("pil grey", Image.new("L", (6, 4), 7)),
        ("array grey", np.full((4, 6), 7, np.uint8)),
        ("tensor grey", torch.full((1, 4, 6), 7, dtype=torch.uint8)),
        ("tensor float", torch.full((3, 4, 6), 7 / 255)),
        (
            "array rgba on white",
            np.dstack([np.full((4, 6, 3), 7), np.full((4, 6), 255)]).astype("u1"),
        ),
        ("transparent", Image.new("RGBA", (6, 4), (7, 7, 7, 255))),
    ],
)
def test_forms_of_an_image(mode: str, value: Any) -> None:
    pixels = np.asarray(as_image(value))
    assert pixels.shape == (4, 6, 3)
    assert (pixels == 7).all()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Stream(), r"`train` must be a data set with `len\(d\)`.* got a `Stream`.*of a stream"),
        (DataLoader(TensorDataset(torch.zeros(2, 3, 4, 4))), "got a `DataLoader`.*give its data"),
        (b"path/to/images", "got a `bytes`. For a folder use FolderDataModule"),
        ([], "`train` is empty: a `list` of length 0"),
        ({"label": [0]}, r"`train` has no column of images among \['label'\]"),
        ({"image": ["a.png"], "label": [1.5]}, "A label of `train` is 1.5: give an integer"),
        ({"image": ["a.png"], "label": [np.inf]}, "A label of `train` is inf: give an integer"),
        ({"image": ["a.png"], "label": [10**9]}, "the label 1000000000: number the classes from 0"),
        ({"image": ["a.png", "b.png"], "label": [1, "wren"]}, "numbers and names: give one kind"),
        ([("a.png", [1])], r"A label of `train` is \[1\]"),
    ],
)
def test_what_does_not_fit_is_one_line(train: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DatasetDataModule(train, **SMALL).setup()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(8, 3, 4, 4), "is no image in .0, 1.: take its normalisation out"),
        (torch.zeros(8, 3, 4, 4, dtype=torch.long), "a tensor of torch.int64 is no image"),
        (torch.zeros(8, 5, 4, 4), r"`Tensor` torch.float32 \(5, 4, 4\) is no image"),
    ],
)
def test_what_is_no_image_is_one_line(images: Any, message: str) -> None:
    data = DatasetDataModule(TensorDataset(images), **SMALL)
    data.setup()
    with pytest.raises(UserError, match=message):
        next(iter(data.train_dataloader(0)))


def test_a_stream_of_hugging_face_is_refused_as_torchs_is(rows: Any) -> None:
    stream = _hugging_face(*rows[:2]).to_iterable_dataset()
    line = r"with `len\(d\)`.* got a `\w*IterableDataset`.*of a stream"
    for made in (stream, stream.with_format("torch")):
        with pytest.raises(UserError, match=line):
            DatasetDataModule(made, **SMALL).setup()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("images", "form"),
    [
        (np.zeros((8, 3, 4, 6), np.uint8), r"uint8 \(3, 4, 6\)"),
        (np.zeros((8, 4, 6, 1), np.uint8), r"uint8 \(4, 6, 1\)"),
        (np.zeros((8, 4, 6, 3), np.float32), r"float32 \(4, 6, 3\)"),
    ],
)
def test_arrays_of_another_form_are_one_line(images: Any, form: str, workers: int) -> None:
    data = DatasetDataModule(list(images), **SMALL | {"num_workers": workers})
    data.setup()
    with pytest.raises(UserError, match=rf"^None of 8 .*: `ndarray` {form} is no image: give "):
        next(iter(data.train_dataloader(0)))


class Nameless(Pairs):
    def __getitem__(self, i: int) -> Any:
        return {"picture": Image.open(self.files[i]), "label": self.of_file[i]}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_refuses_is_one_line(workers: int, rows: Any) -> None:
    data = DatasetDataModule(Nameless(*rows[:2]), **SMALL | {"num_workers": workers})
    data.setup()
    for loader in (data.train_dataloader(0), data.eval_loader("train")):
        with pytest.raises(UserError) as caught:
            next(iter(loader))
        line = "There is no image among ['picture', 'label']: set `image_column`."
        assert str(caught.value) == line


class TwoLabels(WithTargets):
    """Dicts with another label than that of its attribute."""

    def __getitem__(self, i: int) -> Any:
        return {"image": Image.open(self.files[i]), "view": 2 - self.of_file[i]}


def test_columns_are_for_what_has_columns(rows: Any) -> None:
    files, labels, _, root = rows
    for kind in (
        ImageFolder(root / "train"),
        Pairs(files, labels),
        WithTargets(files, labels),
        files,
        list(zip(files, labels, strict=True)),
    ):
        for column in ("image_column", "label_column"):
            line = f"`{column}` is 'x', and the data sets have no columns"
            with pytest.raises(UserError, match=line):
                DatasetDataModule(kind, **{column: "x"}, **SMALL).setup()
    table = {"image": files, "label": labels}
    data = DatasetDataModule(table, test=files, image_column="image", **SMALL)
    data.setup()
    assert len(data.sources["test"]) == len(files)
    data = DatasetDataModule(TwoLabels(files, labels), label_column="view", **SMALL)
    data.setup()
    assert data.sources["train"].labels.tolist() == [2 - k for k in labels]
    with pytest.raises(UserError, match=r"no column 'x' among \['image', 'view'\]"):
        DatasetDataModule(TwoLabels(files, labels), label_column="x", **SMALL).setup()


def test_a_column_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"There is no column 'photo' among \['image'\]"):
        DatasetDataModule({"image": ["a.png"]}, image_column="photo", **SMALL).setup()
