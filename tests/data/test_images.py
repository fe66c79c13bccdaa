"""What each kind of image becomes, and each that is none: by the one function, and by a data module that skips it."""

import contextlib
import io
import os
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import v2

from ppssl import FolderDataModule
from ppssl.data.images import read_frame, read_image, squash, turn_upright
from ppssl.data.scan import scan_images
from ppssl.data.sets.any_dataset import RowSource, as_image
from ppssl.data.sets.folder import FolderSource
from ppssl.data.sets.shards import Member, ShardSource
from ppssl.data.survey import Survey
from ppssl.utils.errors import UserError

COLOUR = (200, 100, 50)


def _bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _pixels(content: bytes) -> np.ndarray:
    image = read_image(content)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


# ---------------------------------------------------------------- defined


def test_transparency_lies_on_white() -> None:
    """What is under transparent pixels, often garbage, is not seen; half transparent is half white."""
    pixels = np.full((2, 3, 4), (*COLOUR, 255), dtype=np.uint8)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 128
    seen = _pixels(_bytes(Image.fromarray(pixels)))
    assert seen[0, 0].tolist() == [255, 255, 255]
    half = np.array(COLOUR) * 128 / 255 + 255 * 127 / 255
    assert np.abs(seen[0, 1] - half).max() <= 1
    assert (seen[1] == COLOUR).all()


def test_transparent_palettes_and_greys_lie_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*COLOUR, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    seen = _pixels(_bytes(palette, transparency=0))
    assert seen.tolist() == [[[255, 255, 255], [10, 20, 30]]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert _pixels(_bytes(grey)).tolist() == [[[255, 255, 255]]]


def test_grey_is_the_same_in_all_channels() -> None:
    seen = _pixels(_bytes(Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))))
    assert (seen == np.arange(12).reshape(3, 4, 1)).all()


def test_cmyk_is_converted() -> None:
    """DeviceCMYK: red is 255 (1 - cyan) (1 - black)."""
    cmyk = Image.new("CMYK", (16, 16), (55, 155, 205, 0))
    assert np.abs(_pixels(_bytes(cmyk, "TIFF")) - COLOUR).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    levels = (np.arange(96).reshape(8, 12) * 680).astype(np.uint16)
    image = Image.fromarray(levels)
    content = _bytes(image, kind)
    np.testing.assert_array_equal(_pixels(content), np.repeat(levels[..., None] // 256, 3, axis=-1))


def test_sixteen_bits_of_colour_keep_the_upper_eight() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    levels = np.array([[[51_400, 25_700, 12_850], [65_535, 255, 256]]], dtype=">u2")
    header = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress(b"\0" + levels.tobytes())
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(_pixels(png), levels.astype(int) // 256)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), COLOUR), Image.new("RGB", (8, 8), (0, 0, 255))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = _bytes(first, kind, save_all=True, append_images=[second], **lossless)
    assert np.abs(_pixels(content) - COLOUR).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_carried_out_as_pillow_does(orientation: int, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = _bytes(Image.fromarray(noise), kind, exif=exif, **lossless)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(_pixels(content), expected)
    assert read_frame(content) == (8, 5, orientation)
    row, column = 1, 6  # where a pixel goes, its centre as a point goes too
    ((x, y),) = turn_upright(np.array([[(column + 0.5) / 8, (row + 0.5) / 5]]), orientation)
    height, width = expected.shape[:2]
    assert expected[int(y * height), int(x * width)].tolist() == noise[row, column].tolist()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("told", ["EXIF", "XMP"])
def test_an_image_is_turned_once_by_whoever_reads_it(kind: str, told: str, tmp_path: Path) -> None:
    """A PIL image as a file; and what was turned says no more that it is to be turned."""
    exif, xmp = Image.Exif(), b'<rdf:Description tiff:Orientation="6"/>'
    exif[0x0112] = 6
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    of_xmp = {"PNG": {"pnginfo": text}, "JPEG": {"xmp": xmp}, "TIFF": {"tiffinfo": {700: xmp}}}
    options: dict[str, Any] = {"exif": exif} if told == "EXIF" else of_xmp[kind]
    path = tmp_path / "image"
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, kind, **options)
    with Image.open(path) as image:
        image.load()
        small = v2.Resize((4, 7))(image)  # keeps the tag; a TIFF is turned before
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == (8, 5, 3)
    assert read_frame(path) == (8, 5, 6)
    assert as_image(small).size == ((7, 4) if kind == "TIFF" else (4, 7))
    for read in (read_image, as_image, lambda file: as_image(Image.open(file))):
        upright = read(path)
        np.testing.assert_array_equal(np.asarray(upright), expected)
        assert ImageOps.exif_transpose(upright).size == upright.size
        assert as_image(upright).size == upright.size


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    content = _bytes(Image.new("RGB", (16, 8), COLOUR), "JPEG", quality=100, exif=exif)
    assert np.abs(_pixels(content) - COLOUR).max() <= 3
    assert read_frame(content) == (16, 8, 1)


# ---------------------------------------------------------------- broken


def _bomb() -> bytes:
    """A PNG whose header promises 20,000 x 20,000 pixels."""
    content = bytearray(_bytes(Image.new("RGB", (4, 4))))
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (
        b"Not found. Please sign in to see this picture.",
        "not an image in a format that Pillow",
    ),
    "html": (b"<!DOCTYPE html><html></html>", "not an image in a format that Pillow reads"),
    "truncated": (_bytes(_noise(), "JPEG")[:1500], "image file is truncated"),
    "header only": (_bytes(_noise())[:40], "not an image in a format that Pillow"),
    "bomb": (_bomb(), "could be decompression bomb"),
    "float": (
        _bytes(Image.new("F", (4, 4)), "TIFF"),
        "floating-point pixels have no defined range",
    ),
    "32 bits": (_bytes(Image.new("I", (4, 4), 70_000), "TIFF"), "32-bit pixels have no defined ra"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_errors_of_one_kind(name: str) -> None:
    content, words = BROKEN[name]
    with pytest.raises((OSError, ValueError), match=words):
        read_image(content)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_stop_the_run_with_their_path_or_are_skipped(
    name: str, tmp_path: Path
) -> None:
    content, words = BROKEN[name]
    for k in range(3):
        (tmp_path / "train" / "wren").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), COLOUR).save(tmp_path / "train" / "wren" / f"{k}.jpg")
    (tmp_path / "train" / "wren" / "1.jpg").write_bytes(content)
    small = {"image_size": 8, "batch_size": 3, "num_workers": 0}
    for on_error in ("raise", "skip"):
        data = FolderDataModule(str(tmp_path), on_error=on_error, **small)  # type: ignore[arg-type]
        data.setup()
        batch = next(iter(data.train_dataloader()))
        if on_error == "raise":
            with pytest.raises(UserError, match=rf"Cannot read .*wren/1.jpg: .*({words})"):
                data.on_before_batch_transfer(batch, 0)
        else:
            with pytest.warns(UserWarning, match=rf"Skipped .*wren/1.jpg: .*({words})"):
                batch = data.on_before_batch_transfer(batch, 0)
            assert len(batch["views"][0]) == 3
            assert 1 not in batch["index"].tolist()


FORMATS = [
    _bytes(_noise(), "JPEG"),
    _bytes(_noise().convert("P"), "GIF"),
    _bytes(_noise(), "WEBP"),
    _bytes(_noise(), "TIFF", compression="tiff_lzw"),
    _bytes(_noise(), "BMP"),
    _bytes(_noise(), "PNG"),
]


@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(FORMATS),
    at=st.floats(0, 1),
    to=st.binary(max_size=8),
    cut=st.booleans(),
)
def test_damaged_files_are_an_image_or_an_error_of_one_kind(
    content: bytes, at: float, to: bytes, cut: bool
) -> None:
    start = int(at**2 * len(content))  # more often in the header
    damaged = content[:start] + to + (b"" if cut else content[start + len(to) :])
    image = None
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(OSError, ValueError):
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # no gigabytes here
        image = read_image(damaged)
    assert image is None or image.mode == "RGB"


# ---------------------------------------------------------------- names and links


def test_names_in_any_script(tmp_path: Path) -> None:
    for folder in ("Zaunkönig", "山雀", "дрозд", "🐦"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4), COLOUR).save(tmp_path / folder / "ü 1.jpg")
    source = FolderSource(tmp_path)
    assert source.classes == sorted(["Zaunkönig", "山雀", "дрозд", "🐦"])
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert source.load(0).size == (4, 4)


def test_accents_may_be_written_in_two_ways(tmp_path: Path) -> None:
    """As macOS and Linux do; train and test often come from different machines."""
    for folder in ("train/Zaunko\u0308nig", "train/Amsel", "test/Zaunk\u00f6nig"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4), COLOUR).save(tmp_path / folder / "1.jpg")
    data = FolderDataModule(str(tmp_path), image_size=8, batch_size=1, num_workers=0)
    data.setup()
    assert data.classes == ["Amsel", "Zaunk\u00f6nig"]
    assert data.sources["test"].labels.tolist() == [1]


def test_names_that_are_no_unicode_can_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.new("RGB", (4, 4), COLOUR).save(path)
    odd = bytes(tmp_path) + b"/b\xe4r.jpg"
    try:
        path.rename(odd.decode("utf-8", "surrogateescape"))
    except OSError:
        pytest.skip("this file system takes Unicode only")
    source = FolderSource(tmp_path)
    assert source.name(0).encode("utf-8").endswith(rb"b\xe4r.jpg")
    rows = RowSource([{"image": str(source.paths[0])}], None, np.zeros(1), ["a"], "train")
    assert rows.name(0) == source.name(0)
    member = Member(source.paths[0], "1.png", 0, 9)
    assert ShardSource([member], {}).name(0) == f"{source.name(0)}, 1.png"
    assert source.load(0).size == (4, 4)
    assert len(source.fingerprint()) == 16


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "wren", elsewhere / "finch"):
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4), COLOUR).save(folder / "1.jpg")
    (root / "wren" / "2.jpg").symlink_to(elsewhere / "finch" / "1.jpg")
    (root / "finch").symlink_to(elsewhere / "finch")
    (root / "wren" / "up").symlink_to(root)
    (root / "wren" / "self").symlink_to("self")
    (root / "wren" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (elsewhere / "finch" / "back").symlink_to(root)
    found = [path.relative_to(root).as_posix() for path in scan_images(root).paths]
    assert found == ["finch/1.jpg", "wren/1.jpg", "wren/2.jpg"]
    assert FolderSource(root).classes == ["finch", "wren"]


def test_folders_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wren").mkdir()
    list_folder = os.scandir

    def refuse(folder: Path) -> Any:  # who runs the tests as root is refused nothing
        if Path(folder).name == "wren":
            raise PermissionError(13, "Permission denied")
        return list_folder(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"Cannot read the folder .*/wren: Permission denied"):
        scan_images(tmp_path)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1600, 1200), 600, (800, 600)),
        ((1600, 1200), 601, (1600, 1200)),
        ((1600, 1200), 150, (200, 150)),
        ((300, 200), 600, (300, 200)),
        ((1200, 1600), 300, (300, 400)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_large_jpeg_is_decoded_at_a_reduced_size(
    tmp_path: Path, size: tuple[int, int], short_side: int, expected: tuple[int, int], turned: bool
) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    if turned:
        exif[0x0112] = 6
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, exif=exif)
    image = read_image(path, short_side=short_side)
    assert image.size == (expected[::-1] if turned else expected)
    whole = read_image(path).resize(image.size, Image.Resampling.BOX)
    error = np.abs(np.asarray(image, dtype=int) - np.asarray(whole, dtype=int))
    assert error.mean() < 2


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", short_side=20).size == (400, 300)


def test_squashing_keeps_the_whole_image() -> None:
    """A square of as many pixels, whose left and right ends are those of the image."""
    ramp = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None], 40, axis=0)
    square = squash(Image.fromarray(ramp).convert("RGB"))
    assert square.size == (60, 60)
    row = np.asarray(square)[30, :, 0].astype(float)
    np.testing.assert_allclose(row, np.interp(np.linspace(0, 1, 60), [0, 1], [0, 255]), atol=3)
    assert squash(square) is square


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (1, 7), (5000, 1), (31, 30), (13, 13)])
def test_a_survey_knows_the_size_of_squashed_images(size: tuple[int, int]) -> None:
    """That of the image that models see, also where half a pixel is rounded."""
    data: Any = SimpleNamespace(squash=True)
    seen = Survey(data, np.zeros(1), np.array(["train"]), np.zeros(1), sizes=np.array([size]))
    assert tuple(seen.served_sizes[0]) == squash(Image.new("RGB", size)).size
    assert replace(seen, sizes=np.empty((0, 2))).served_sizes.shape == (0, 2)
