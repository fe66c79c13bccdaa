"""Shards that are damaged, compressed or missing, and images in them that cannot be read."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppssl import DatasetDataModule, UserError
from shard_files import PIXEL, png, write_shard

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8, "num_workers": 0}


def _read(shard: Path) -> Any:
    data = DatasetDataModule(shard, **SMALL)
    data.setup()
    return data.sources["train"]


def test_a_broken_image_is_named_or_skipped(tmp_path: Path) -> None:
    members = [(f"{i}.png", png(i)) for i in range(8)]
    shard = write_shard(tmp_path / "a.tar", [*members, ("bad.png", PIXEL[:30]), ("none.png", b"")])
    for on_error in ("raise", "skip"):
        data = DatasetDataModule(shard, on_error=on_error, **SMALL | {"batch_size": 10})
        data.setup()
        (batch,) = data.train_dataloader(0)
        if on_error == "raise":
            with pytest.raises(
                UserError, match=r"Cannot read .*a\.tar, (bad|none)\.png: .+ Repair"
            ):
                data.on_before_batch_transfer(batch, 0)
        else:
            with pytest.warns(UserWarning, match=r"Skipped .*a\.tar, none\.png: the file is empty"):
                data.on_before_batch_transfer(batch, 0)


def test_a_shard_that_changes_later(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [("1.png", PIXEL)])
    source = _read(shard)
    shard.write_bytes(shard.read_bytes()[:530])
    with pytest.raises(UserError, match=r"a\.tar, 1\.png: the shard is shorter than when its memb"):
        source.read(0)
    shard.unlink()
    with pytest.raises(UserError, match=r"Cannot read .*a\.tar, 1\.png: .*No such file"):
        source.read(0)


def _compressed(mode: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        with tarfile.open(folder / f"a.tar.{mode}", f"w:{mode}") as tar:  # type: ignore[call-overload]
            tar.addfile(tarfile.TarInfo("1.png"))
        return f"{folder}/a.tar.{mode}"

    return write


def _member(name: str, content: bytes) -> Callable[[Path], Path]:
    return lambda folder: write_shard(folder / "a.tar", [("1.png", PIXEL), (name, content)])


def _plain(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a.tar").write_bytes(content)
        return folder / "a.tar"

    return write


def _negative(folder: Path) -> Path:
    """A size that leads back to the member itself."""
    info = tarfile.TarInfo("1.png")
    info.size = -512
    (folder / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return folder / "a.tar"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_compressed("gz"), r"a\.tar\.gz: it is compressed, .*: unpack it to a \.tar first\.$"),
        (_compressed("bz2"), r"it is compressed"),
        (lambda folder: Path(_compressed("xz")(folder)).parent, r"a\.tar\.xz: it is compressed"),
        (_plain(b"\x28\xb5\x2f\xfd" * 200), "it is compressed"),
        (_plain(b""), r"a\.tar: not a tar file, or damaged: empty file\.$"),
        (_plain(b"<html>"), r"a\.tar: not a tar file, or damaged: truncated header\.$"),
        (_plain(PIXEL * 50), r"a\.tar: not a tar file, or damaged: "),
        (_plain(bytes(10240)), r"No images in the 1 shards of `train`, .*a\.tar: a member's name "),
        (_negative, r"a\.tar: not a tar file, or damaged: "),
        (lambda f: write_shard(f / "a.tar", [("1.npy", b"")]), r"a\.tar \(but 1 \.npy\): a member"),
        (lambda f: write_shard(f / "a.tar", [("1.cls", b"")]), r"\(but 1 keys without an image\)"),
        (lambda f: f / "b.tar", r"`train`: no such file: .*/b\.tar\. Name a tar file on disk"),
        (lambda f: f / "b-{0..9}.tar", r"no such file: .*/b-0\.tar \(of .*/b-\{0\.\.9\}\.tar\)"),
        (lambda f: f / "{9..0}.tar", r"\{9\.\.0\}\.tar names no file: 9 is above 0"),
        (lambda f: f / "b-*.tar", r"no such file: .*/b-\*\.tar\. Name"),
        (lambda f: [f / "1.png", f / "b.tar"], r"no such file: .*/1\.png\. Name"),
        (lambda f: f, r"`train`: no \.tar files in .*\. For a folder of images use FolderDataMod"),
        (lambda f: "", r"`train` is empty"),
        (_member("1.json", b"{"), r"a\.tar: 1\.json cannot be read: Expecting"),
        (_member("1.json", b"[" * 100_000), r"a\.tar: 1\.json cannot be read: maximum recursion"),
        (_member("1.cls", b"\xff"), r"a\.tar: 1\.cls cannot be read: 'utf-8' codec"),
        (_member("1.json", b'{"label": [1]}'), r"A label of `train` is \[1\]: give an integer"),
        (_member("1.json", b'{"label": Infinity}'), "A label of `train` is inf: give an integer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(write: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        DatasetDataModule(write(tmp_path), **SMALL).setup()
    assert "\n" not in str(error.value)


def test_numbers_and_names_do_not_mix(tmp_path: Path) -> None:
    labels = [("1.png", PIXEL), ("1.cls", b"1"), ("2.png", PIXEL), ("2.cls", b"wren")]
    with pytest.raises(UserError, match="The labels of `train` are numbers and names"):
        _read(write_shard(tmp_path / "a.tar", labels))


MEMBERS = [("a.png", PIXEL), ("a.cls", b"1"), ("b.png", PIXEL), ("b.cls", b"0")]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("shard") / "a.tar", MEMBERS)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 10_240))
def test_a_cut_shard_is_refused(size: int, shard: Path) -> None:
    """Only of the padding after the mark of the end something may be missing."""
    content = shard.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    cut = shard.with_name("cut.tar")
    cut.write_bytes(content[:size])
    if size < end + 512:
        with pytest.raises(UserError, match=r"cut\.tar: (damaged at byte|not a tar file, or dam)"):
            _read(cut)
    else:
        assert len(_read(cut)) == 2


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 8 * 512), value=st.integers(0, 255))
def test_no_damaged_byte_makes_images_vanish(place: int, value: int, shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[place] = value
    damaged = shard.with_name("damaged.tar")
    damaged.write_bytes(content)
    try:
        source = _read(damaged)
    except UserError:
        return
    assert len(source) == 2
    assert [source.encoded_size(i) for i in range(2)] == [len(PIXEL)] * 2
