"""Downloads from a server on this machine that fails in every way: what is there afterwards is whole, or not there."""

import hashlib
import io
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import layouts
from ppssl import AircraftDataModule, CUBDataModule
from ppssl.data.sets import download
from ppssl.data.sets.download import Archive, extract, fetch, obtain
from ppssl.data.sets.published import PublishedDataModule
from ppssl.utils.errors import UserError

OPEN: dict[str, Any] = {"image_size": 16, "batch_size": 4, "num_workers": 0, "check_counts": False}


class Mirror(ThreadingHTTPServer):
    """Serves ``content`` at every path; what goes wrong is set by its attributes.

    Attributes:
        breaks: After how many bytes each of the first transfers breaks off.
        ranges: Whether parts can be asked for.
        status: Of every answer, if it is another than 200.
        asked: The first byte of each request.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.breaks: list[int] = []
        self.ranges, self.length = True, True
        self.status = 200
        self.asked: list[int] = []

    def url(self) -> str:
        """Of the archive."""
        return f"http://127.0.0.1:{self.server_port}/set.tgz"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror, asked = self.server, self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and mirror.ranges else 0
        mirror.asked.append(start)
        if mirror.status != 200 or (start and start >= len(mirror.content)):
            self.send_error(mirror.status if mirror.status != 200 else 416)
            return
        body = mirror.content[start:]
        self.send_response(206 if start else 200)
        if mirror.length:
            self.send_header("Content-Length", str(len(body)))
        if start:
            whole = len(mirror.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        self.wfile.write(body[: mirror.breaks.pop(0)] if mirror.breaks else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _no_pauses_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def _tar(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, member in members.items():
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return content.getvalue()


GOOD = _tar({"set/images.txt": os.urandom(200_000), "notes.txt": b"beside it"})


@pytest.fixture
def mirrors() -> Iterator[list[Mirror]]:
    """Two mirrors with the right archive."""
    servers = [Mirror(GOOD), Mirror(GOOD)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def _archive(*urls: str, content: bytes = GOOD) -> Archive:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Archive(file="set.tgz", md5=md5, folder="set", urls=urls)


def _dead() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/set.tgz"


def _left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".set.tgz.lock"}


# ---------------------------------------------------------------- transfers


def test_a_whole_archive_arrives_and_is_unpacked(mirrors: list[Mirror], tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    archive = _archive(mirrors[0].url())
    obtain(archive, root, lambda: (root / "set").exists())
    assert _left(root) == {"set", "notes.txt", "set.tgz"}
    assert (root / "notes.txt").read_bytes() == b"beside it"
    obtain(archive, root, lambda: (root / "set").exists())
    assert mirrors[0].asked == [0]
    assert not mirrors[1].asked


@pytest.mark.parametrize("fault", ["refused", "404", "503", "empty"])
def test_a_dead_mirror_is_followed_by_the_next(
    mirrors: list[Mirror], tmp_path: Path, fault: str
) -> None:
    first, second = mirrors
    first.status = int(fault) if fault.isdigit() else 200
    first.breaks = [0] * 20 if fault == "empty" else []
    url = _dead() if fault == "refused" else first.url()
    with pytest.warns(UserWarning, match=rf"{url}: "):
        path = fetch(_archive(url, second.url()), tmp_path)
    assert path.read_bytes() == GOOD
    assert len(first.asked) == {"refused": 0, "404": 1, "503": 3, "empty": 3}[fault]
    assert second.asked == [0]


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(
    mirrors: list[Mirror], tmp_path: Path
) -> None:
    mirrors[0].breaks = [70_000, 50_000, 0, 0, 10_000]
    path = fetch(_archive(mirrors[0].url()), tmp_path)
    assert path.read_bytes() == GOOD
    assert mirrors[0].asked == [0, 70_000, 120_000, 120_000, 120_000, 130_000]
    assert _left(tmp_path) == {"set.tgz"}


def test_another_mirror_goes_on_where_the_first_stopped(
    mirrors: list[Mirror], tmp_path: Path
) -> None:
    mirrors[0].breaks = [70_000, 0, 0, 0]
    with pytest.warns(UserWarning, match="the transfer broke off|IncompleteRead"):
        path = fetch(_archive(*(mirror.url() for mirror in mirrors)), tmp_path)
    assert path.read_bytes() == GOOD
    assert mirrors[1].asked == [70_000]


def test_a_later_run_goes_on_where_the_first_stopped(mirrors: list[Mirror], tmp_path: Path) -> None:
    mirrors[0].breaks = [70_000, 0, 0, 0]
    archive = _archive(mirrors[0].url())
    with (
        pytest.raises(UserError, match=r"Cannot download set.tgz: http://.*Put the file into"),
        pytest.warns(UserWarning, match=r"set\.tgz: "),
    ):
        fetch(archive, tmp_path)
    assert _left(tmp_path) == {"set.tgz.part"}
    mirrors[0].asked.clear()
    assert fetch(archive, tmp_path).read_bytes() == GOOD
    assert mirrors[0].asked == [70_000]


def test_a_server_without_ranges_begins_again(mirrors: list[Mirror], tmp_path: Path) -> None:
    mirrors[0].ranges = False
    mirrors[0].breaks = [70_000, 90_000]
    assert fetch(_archive(mirrors[0].url()), tmp_path).read_bytes() == GOOD
    assert mirrors[0].asked == [0, 0, 0]


def test_a_server_that_never_gets_further_is_given_up(
    mirrors: list[Mirror], tmp_path: Path
) -> None:
    mirrors[0].ranges = False
    mirrors[0].breaks = [70_000, 50_000, 70_000] * 20
    with (
        pytest.raises(UserError, match="Cannot download"),
        pytest.warns(UserWarning, match=r"set\.tgz: "),
    ):
        fetch(_archive(mirrors[0].url()), tmp_path)
    assert len(mirrors[0].asked) == 4


def test_a_length_that_is_not_told(mirrors: list[Mirror], tmp_path: Path) -> None:
    mirrors[0].length = False
    assert fetch(_archive(mirrors[0].url()), tmp_path).read_bytes() == GOOD


def test_a_complete_part_is_not_fetched_again(mirrors: list[Mirror], tmp_path: Path) -> None:
    (tmp_path / "set.tgz.part").write_bytes(GOOD)
    assert fetch(_archive(mirrors[0].url()), tmp_path).read_bytes() == GOOD


# ---------------------------------------------------------------- checks


def test_a_wrong_md5_is_not_kept(mirrors: list[Mirror], tmp_path: Path) -> None:
    mirrors[0].content = GOOD[:-1] + b"x"
    with pytest.warns(UserWarning, match="its MD5 is not"):
        path = fetch(_archive(*(mirror.url() for mirror in mirrors)), tmp_path)
    assert path.read_bytes() == GOOD
    assert mirrors[1].asked == [0]  # nothing of the wrong one is used
    path.unlink()
    with (
        pytest.raises(UserError, match="its MD5 is not"),
        pytest.warns(UserWarning, match=r"set\.tgz: "),
    ):
        fetch(_archive(mirrors[0].url()), tmp_path)
    assert _left(tmp_path) == set()


def test_a_part_that_is_wrong_is_thrown_away(mirrors: list[Mirror], tmp_path: Path) -> None:
    (tmp_path / "set.tgz.part").write_bytes(b"of something else")
    assert fetch(_archive(mirrors[0].url()), tmp_path).read_bytes() == GOOD
    assert mirrors[0].asked == [17, 0]


def test_an_archive_that_lies_there_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "set.tgz").write_bytes(GOOD)
    obtain(_archive(_dead()), tmp_path, lambda: False)
    assert (tmp_path / "set" / "images.txt").is_file()
    (tmp_path / "set.tgz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"set.tgz is damaged .*remove it"):
        fetch(_archive(_dead()), tmp_path)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write to .*file/data: Not a directory"):
        obtain(_archive(_dead()), tmp_path / "file" / "data", lambda: False)


# ---------------------------------------------------------------- archives


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MALICIOUS: dict[str, dict[str, bytes | tarfile.TarInfo]] = {
    "upwards": {"../outside": b"x"},
    "upwards within": {"set/a/../../../outside": b"x"},
    "link out": {"set/link": _link("set/link", "../.."), "set/link/outside": b"x"},
    "hard link": {"set/link": _link("set/link", "/etc/hostname", tarfile.LNKTYPE)},
    "device": {"set/null": _link("set/null", "", tarfile.CHRTYPE)},
    "pipe": {"set/pipe": _link("set/pipe", "", tarfile.FIFOTYPE)},
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_archives_leave_nothing(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "set.tgz").write_bytes(_tar({"set/images.txt": b"x"} | MALICIOUS[name]))
    with pytest.raises(UserError, match=r"is damaged or not to be trusted: .*Remove it"):
        extract(root / "set.tgz", root, last="set")
    assert _left(root) == {"set.tgz"}
    assert _left(tmp_path) == {"data"}


def test_nothing_lands_outside_of_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside.txt"
    root.mkdir()
    link = _link("set/link", "images.txt")
    content = _tar({"set/images.txt": b"x", str(outside): b"x", "set/link": link})
    (root / "set.tgz").write_bytes(content)
    extract(root / "set.tgz", root, last="set")
    assert not outside.exists()
    assert (root / outside.relative_to("/")).is_file()
    assert (root / "set" / "link").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "set.tgz is damaged or not to be trusted"),
        (GOOD[:100_000], "set.tgz is damaged or not to be trusted"),
        (_tar({"other/x": b"x"}), "does not hold set"),
    ],
    ids=[
        "no archive",
        "cut off",
        "another folder",
    ],  # an archive holds the time, which differs by process
)
def test_damaged_archives_leave_nothing(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "set.tgz").write_bytes(content)
    with pytest.raises(UserError, match=words):
        extract(tmp_path / "set.tgz", tmp_path, last="set")
    assert _left(tmp_path) == {"set.tgz"}


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set.tgz").write_bytes(GOOD)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").touch()
    with pytest.raises(UserError, match=r"set is there already: move it away"):
        extract(tmp_path / "set.tgz", tmp_path, last="set")
    assert _left(tmp_path / "set") == {"mine.txt"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "set.tgz").write_bytes(GOOD)
    (tmp_path / ".set.tgz.unpacking" / "set").mkdir(parents=True)
    (tmp_path / ".set.tgz.unpacking" / "set" / "half").touch()
    extract(tmp_path / "set.tgz", tmp_path, last="set")
    assert _left(tmp_path) == {"set", "notes.txt", "set.tgz"}
    assert _left(tmp_path / "set") == {"images.txt"}


# ---------------------------------------------------------------- a data set


ORIGINALS = {
    "cub": (CUBDataModule, "CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    "aircraft": (
        AircraftDataModule,
        "fgvc-aircraft-2013b.tar.gz",
        "d4acdd33327262359767eeaa97a4f732",
    ),
}


@pytest.fixture(params=ORIGINALS)
def original(
    request: pytest.FixtureRequest,
    mirrors: list[Mirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[type[PublishedDataModule], Archive]:
    """A data set whose archive is a miniature copy on the first mirror; and the archive that it names itself."""
    make, own = ORIGINALS[request.param][0], ORIGINALS[request.param][0].archive
    assert own is not None
    getattr(layouts, request.param)(tmp_path / "original")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for path in sorted((tmp_path / "original").iterdir()):
            tar.add(path, path.name)
    mirrors[0].content = content.getvalue()
    md5 = hashlib.md5(mirrors[0].content, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(make, "archive", replace(own, md5=md5, urls=(mirrors[0].url(),)))
    return make, own


def test_a_set_is_downloaded_where_it_is_not_there(
    original: tuple[type[PublishedDataModule], Archive], mirrors: list[Mirror], tmp_path: Path
) -> None:
    make, own = original
    assert (make, own.file, own.md5) in ORIGINALS.values()
    assert all(url.endswith(f"/{own.file}") for url in own.urls)
    mirrors[0].breaks = [3000]  # the transfer breaks off once
    data = make(str(tmp_path / "new"), download=True, **OPEN)
    data.prepare_data()
    data.setup()
    assert data.num_train == (12 if make is AircraftDataModule else 9)
    assert mirrors[0].asked == [0, 3000]
    if isinstance(data, CUBDataModule):
        assert len(data.attributes()[0]) == 3
    make(str(tmp_path / "new" / own.folder), download=True, **OPEN).setup()
    layouts.class_folders(tmp_path / "folders", ("a", "b", "c"), banner=20)
    make(str(tmp_path / "folders"), download=True, **OPEN).setup()
    assert len(mirrors[0].asked) == 2  # what is there is not fetched, nor is anything written there
    assert {path.name for path in (tmp_path / "folders").iterdir()} == {"train", "test"}


def test_a_set_whose_archive_is_wrong_leaves_nothing(
    original: tuple[type[PublishedDataModule], Archive], mirrors: list[Mirror], tmp_path: Path
) -> None:
    make, own = original
    mirrors[0].content = GOOD
    data = make(str(tmp_path / "new"), download=True, **OPEN)
    with (
        pytest.raises(UserError, match=rf"Cannot download {own.file}: .*its MD5 is not"),
        pytest.warns(UserWarning, match="its MD5 is not"),
    ):
        data.prepare_data()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f".{own.file}.lock"}
