import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from PIL import Image

from ppssl import PPSSL, DatasetDataModule, FolderDataModule, MoCo, UserError
from ppssl.cli.main import main
from ppssl.data.sets.shards import ShardSource
from ppssl.data.survey import survey
from shard_files import PIXEL, png, write_shard, write_shards

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8, "num_workers": 0}


def _read(given: Any, **options: Any) -> ShardSource:
    data = DatasetDataModule(given, **SMALL, **options)
    data.setup()
    source = data.sources["train"]
    assert isinstance(source, ShardSource)
    return source


def _shard(folder: Path, *members: tuple[str, bytes]) -> ShardSource:
    return _read(write_shard(folder / "a.tar", members))


def _labels(source: ShardSource) -> list[str | None]:
    return [source.classes[k] if k >= 0 else None for k in source.labels]


def _same(ours: Any, theirs: Any) -> bool:
    views = zip(ours["views"], theirs["views"], strict=True)
    return ours["index"].equal(theirs["index"]) and all(a.equal(b) for a, b in views)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """JPEGs that are decoded at a reduced size for training, two of them on their side."""
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder := tmp_path / "images" / f"class{label}").mkdir(parents=True)
        for i in range(8):
            small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6 if i == 0 else 1
            small.resize((600, 450)).save(folder / f"{i}.jpg", exif=exif)
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("label", "names"), [("cls", True), ("cls", False), ("label", False), ("class", True)]
)
def test_the_samples_are_those_of_the_folder(
    label: str, names: bool, photographs: Path, tmp_path: Path
) -> None:
    pattern = write_shards(photographs, tmp_path / "s-{000..002}.tar", count=3, label=label, names=names)  # fmt: skip
    classes = None if names else ["class0", "class1"]
    ours = DatasetDataModule(pattern, class_names=classes, **SMALL)
    theirs = FolderDataModule(str(photographs), **SMALL)
    for data in (ours, theirs):
        data.setup()
    a, b = ours.sources["train"], theirs.sources["train"]
    assert a.labels.tolist() == b.labels.tolist()
    assert a.classes == b.classes
    for i in range(len(b)):
        for load in (lambda s, i=i: s.load(i), lambda s, i=i: s.load_reduced(i, 100)):
            assert np.array_equal(load(a), load(b))
    assert a.load(0).size == (450, 600)
    assert a.load_reduced(0, 100).size == (113, 150)
    for batch, other in zip(ours.train_dataloader(1), theirs.train_dataloader(1), strict=True):
        assert _same(batch, other)
        assert batch["label"].equal(other["label"])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes_read_the_same(method: str, image_folder: Path, tmp_path: Path) -> None:
    pattern = write_shards(image_folder / "train", tmp_path / "s-{000..001}.tar")
    data = DatasetDataModule(str(pattern), **SMALL)
    data.setup()
    alone = list(data.train_dataloader(0))
    copy = pickle.loads(pickle.dumps(data.sources["train"]))
    assert np.array_equal(copy.load(5), data.sources["train"].load(5))
    data.num_workers = 2
    loader = data.train_dataloader(0)
    loader.multiprocessing_context = method
    several = list(loader)
    assert len(several) == len(alone) == 3
    assert all(map(_same, several, alone))


def test_ways_to_name_them(image_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "shards"
    write_shards(image_folder / "train", folder / "a-{000..001}.tar")
    write_shards(image_folder / "test", folder / "b-{000..005}.tar", count=6)
    (folder / ".hidden.tar").touch()
    (folder / "a-000.tar.gz").touch()
    (folder / "a-000.tar.idx").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for named, files in (
        (folder / "b-001.tar", "b1"),
        (str(folder), "a0 a1 b0 b1 b2 b3 b4 b5"),
        (f"{folder}/a-{{000..001}}.tar", "a0 a1"),
        ("~/shards/*-{000..001}.tar", "a0 b0 a1 b1"),
        (f"{folder}/b-*.tar", "b0 b1 b2 b3 b4 b5"),
        ([folder / "b-000.tar", f"{folder}/a-{{001..001}}.tar"], "b0 a1"),
    ):
        shards = dict.fromkeys(member.shard.name for member in _read(named).members)
        assert " ".join(f"{name[0]}{name[4]}" for name in shards) == files
    write_shard(tmp_path / "c[1]" / "8.tar", [("x.png", PIXEL)])
    shutil.copy(tmp_path / "c[1]" / "8.tar", tmp_path / "c[1]" / "10.tar")
    assert len(_read(f"{tmp_path}/c[1]/8.tar")) == 1
    assert len(_read([f"{tmp_path}/c[1]/{{8..8}}.tar", f"{tmp_path}/c[1]/10.tar"])) == 2


def test_splits_share_the_classes(image_folder: Path, tmp_path: Path) -> None:
    train = write_shards(image_folder / "train", tmp_path / "train-{000..001}.tar")
    test = write_shard(tmp_path / "t.tar", [("x.png", PIXEL), ("x.cls", b"class2")])
    data = DatasetDataModule(train, test=test, **SMALL)
    data.setup()
    assert data.sources["test"].labels.tolist() == [2]
    write_shard(test, [("x.png", PIXEL), ("x.cls", b"owl")])
    with pytest.raises(UserError, match="`test` has the label 'owl', which is none of the 3"):
        DatasetDataModule(train, test=test, **SMALL).setup()


def test_members_of_a_key_are_a_sample(tmp_path: Path, caplog: Any) -> None:
    """Labels before and after the image, in other folders, missing; what is passed over is counted."""
    source = _shard(
        tmp_path,
        ("one/1.cls", b"\xef\xbb\xbfwren\r\n"),
        ("one/1.depth.png", b"no image of the sample"),
        ("one/1.JPG", png(10)),
        ("one/1.json", b'{"label": "the text of the cls counts"}'),
        ("two/1.png", png(20)),
        ("3.png", png(30)),
        ("3.txt", b"a caption"),
        ("3.webp", b"a further image"),
        ("two/1.json", b'{"id": 5, "class": "finch"}'),
        ("4.png", png(40)),
        ("4.json", b'{"label": null}'),
        ("5.cls", b"a label alone"),
        ("._1.png", b"of a Mac"),
        ("README", b""),
        ("6.png", png(50)),
        ("6.cls", b"\n"),
        ("7.png", png(60)),
        ("7.json", b"[1, 2]"),
    )
    assert _labels(source) == ["wren", "finch", None, None, None, None]
    seen = [int(np.asarray(source.load(i))[0, 0, 0]) for i in range(len(source))]
    assert seen == pytest.approx([10, 20, 30, 40, 50, 60], abs=2)
    assert source.name(1) == f"{tmp_path / 'a.tar'}, two/1.png"
    assert source.passed_over == {
        ".depth.png": (1, "one/1.depth.png"),
        ".txt": (1, "3.txt"),
        "further members of a key": (1, "3.webp"),
        "hidden": (1, "._1.png"),
        "no ending": (1, "README"),
        "keys without an image": (1, "5.cls"),
    }


def test_endings_and_fields_of_your_own(tmp_path: Path) -> None:
    members = [
        ("1.left.png", png(10)),
        ("1.right.png", png(20)),
        ("1.png", b"no image"),
        ("1.cls", b"7"),
        ("1.json", b'{"label": "bird", "species": "wren"}'),
    ]
    shard = write_shard(tmp_path / "a.tar", members)
    for ending, colour in (("left.png", 10), (".right.PNG", 20)):
        source = _read(shard, image_column=ending, label_column="species")
        assert np.asarray(source.load(0))[0, 0, 0] == colour
        assert _labels(source) == ["wren"]
    assert _read(shard, label_column="cls").labels.tolist() == [7]
    with pytest.raises(UserError, match=r"no column 'genus' among \['label', 'species', 'cls'\]"):
        _read(shard, label_column="genus")


def test_a_label_that_no_sample_has(tmp_path: Path) -> None:
    members = [("1.png", PIXEL), ("1.txt", b"wren"), ("2.png", PIXEL), ("2.txt", b"owl")]
    shard = write_shard(tmp_path / "a.tar", members)
    for label in ("txt", "nonexist"):
        line = rf"has the label '{label}' \(passed over: \.txt\): `label_column` is a field"
        with pytest.raises(UserError, match=line):
            _read(shard, label_column=label)
    assert _read(shard).classes == []
    write_shard(shard, [*members, ("2.json", b'{"species": null}')])
    assert _labels(_read(shard, label_column="species")) == [None, None]


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)  # fmt: skip
def test_long_names_links_and_folders(form: int, tmp_path: Path) -> None:
    name = "f" * 90 + "/" + ("k" if form == tarfile.USTAR_FORMAT else "Zaunkönig" * 12)
    shard = write_shard(tmp_path / "a.tar", [(f"{name}.png", PIXEL), (f"{name}.cls", b"3")], form)
    with tarfile.open(shard, "a") as tar:
        folder, link = tarfile.TarInfo("birds.png"), tarfile.TarInfo("link.png")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.LNKTYPE, f"{name}.png"
        tar.addfile(folder)
        tar.addfile(link)
    source = _read(shard)
    assert [member.name for member in source.members] == [f"{name}.png"]
    assert source.labels.tolist() == [3]
    assert source.load(0).size == (9, 6)
    assert source.passed_over == {"links and special files": (1, "link.png")}


def test_the_fingerprint_follows_the_images(tmp_path: Path) -> None:
    first = _shard(tmp_path / "1", ("1.png", PIXEL), ("2.png", PIXEL)).fingerprint()
    assert _shard(tmp_path / "2", ("1.png", PIXEL), ("2.png", PIXEL)).fingerprint() == first
    assert _shard(tmp_path / "3", ("1.png", PIXEL)).fingerprint() != first
    assert _shard(tmp_path / "4", ("1.png", PIXEL), ("2.png", PIXEL + b"0")).fingerprint() != first


def test_the_survey_sees_what_it_sees_of_files(photographs: Path, tmp_path: Path) -> None:
    """Sizes in full, equal bytes among images that are not opened, and what cannot be read."""
    shutil.copy(photographs / "class0" / "3.jpg", photographs / "class1" / "copy.jpg")
    (photographs / "class1" / "broken.jpg").write_bytes(b"GIF89a")
    pattern = write_shards(photographs, tmp_path / "s-{000..001}.tar")
    for limit in (None, 2):
        ours = survey(DatasetDataModule(pattern, **SMALL), limit=limit)
        theirs = survey(FolderDataModule(str(photographs), **SMALL), limit=limit)
        assert ours.sizes.tolist() == theirs.sizes.tolist()
        assert ours.equal == theirs.equal == [(3, 17)]
        assert ours.broken == theirs.broken
    assert ours.sizes.tolist() == [[450, 600], [600, 450]]


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
    labelled=st.sets(st.sampled_from("abcdef")),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_of_members_does_not_matter(
    keys: list[str], labelled: set[str], seed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    members = [(f"{key}.png", png(ord(key))) for key in keys]
    members += [(f"{key}.json", json.dumps({"label": ord(key)}).encode()) for key in labelled]
    seed.shuffle(members)
    source = _shard(tmp_path_factory.getbasetemp(), *members)
    seen = {int(np.asarray(source.load(i))[0, 0, 0]): int(k) for i, k in enumerate(source.labels)}
    assert seen == {ord(key): ord(key) if key in labelled else -1 for key in keys}


def test_a_run_is_evaluated_by_its_checkpoint_alone(image_folder: Path, tmp_path: Path) -> None:
    """A checkpoint names the shards: `evaluate` needs no data set."""
    train = write_shards(image_folder / "train", tmp_path / "train-{000..001}.tar")
    write_shards(image_folder / "test", tmp_path / "test-{000..001}.tar")
    test = [tmp_path / "test-000.tar", tmp_path / "test-001.tar"]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "max_steps": 1}
    trainer = Trainer(default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
    model = PPSSL("resnet_small", backbone_kwargs={"width": 4}, contrastive=MoCo(dim=8))
    trainer.fit(model, DatasetDataModule(train, test=test, **SMALL))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    results = tmp_path / "results.json"
    command = ["evaluate", str(tmp_path / "last.ckpt"), f"--json={results}", "--device=cpu"]
    assert main(command) == 0
    assert "knn-1" in results.read_text()
