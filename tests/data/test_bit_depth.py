"""Files with more bits than values: 10 or 12 bits in 16, 8 in 32, are scaled or refused, and never black."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from ppssl import (
    AircraftDataModule,
    CarsDataModule,
    CUBDataModule,
    DatasetDataModule,
    FineGrainedDataModule,
    FolderDataModule,
    UserError,
)
from ppssl.data.images import read_image
from ppssl.data.source import ImageSource
from shard_files import write_shards


def _levels(bits: int) -> np.ndarray:
    return np.linspace(0, 2**bits - 1, 64).round().astype(np.int64).reshape(8, 8)


def _save(path: Path, levels: np.ndarray, dtype: type) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.astype(dtype)).save(path)


def _source(root: Path, bit_depth: int | None = None) -> ImageSource:
    data = FolderDataModule(str(root), bit_depth=bit_depth, num_workers=0)
    data.setup()
    return data.sources["train"]


def _colour_png(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in levels)
    header = b"".join(n.to_bytes(4, "big") for n in levels.shape[::-1]) + bytes([16, 2, 0, 0, 0])
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("bits", "name", "dtype"),
    [
        (8, "x.png", np.uint16),
        (10, "x.png", np.uint16),
        (12, "x.tif", np.uint16),
        (14, "x.tif", np.uint16),
        (8, "x.tif", np.int32),
        (12, "x.tif", np.int32),
    ],
)
def test_few_bits_are_refused_or_scaled(tmp_path: Path, bits: int, name: str, dtype: type) -> None:
    levels = _levels(bits)
    _save(tmp_path / "a" / name, levels, dtype)
    expected = (
        rf"a/{name} has more than 8 bits, and {2**bits - 1} is its .* `data.bit_depth={bits}`"
    )
    with pytest.raises(UserError, match=expected):
        _source(tmp_path)
    source = _source(tmp_path, bits)
    pixels = np.asarray(source.load(0)).astype(int)
    np.testing.assert_array_equal(pixels[..., 0], levels >> (bits - 8))
    assert pixels.max() == 255
    np.testing.assert_array_equal(source.load_reduced(0, 8), source.load(0))
    assert np.asarray(_source(tmp_path, 16).load(0)).max() == (2**bits - 1) >> 8
    assert source.served() != _source(tmp_path, 16).served()


def test_colour_of_few_bits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(_colour_png(_levels(12)))
    with pytest.raises(UserError, match=r"x.png has more than 8 bits, and 3855 .* nearly black"):
        _source(tmp_path)
    with pytest.raises(ValueError, match="16-bit colour of 12 bits cannot be scaled; save it with"):
        _source(tmp_path, 12).load(0)
    (tmp_path / "x.png").write_bytes(_colour_png(_levels(16)))
    assert np.asarray(_source(tmp_path).load(0)).max() == 255


def test_one_bright_image_of_the_sample_is_enough(tmp_path: Path) -> None:
    """A dark image is none of few bits; the sample is of the whole set, evenly spaced."""
    for i in range(40):
        _save(tmp_path / f"{i:02}.png", _levels(16 if i == 39 else 10), np.uint16)
    assert len(_source(tmp_path)) == 40


def test_other_images_are_not_concerned(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    assert len(_source(tmp_path)) == 3


@settings(max_examples=100, deadline=None)
@given(
    bits=st.integers(8, 16),
    value=st.integers(0, 65_535),
    dtype=st.sampled_from([np.uint16, np.int32]),
)
def test_every_value_is_scaled_or_clipped(bits: int, value: int, dtype: type) -> None:
    import io

    content = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, dtype=dtype)).save(content, "TIFF")
    pixels = np.asarray(read_image(content.getvalue(), bit_depth=bits))
    assert (pixels == min(255, value * 256 // 2**bits)).all()


@pytest.mark.parametrize("bit_depth", [0, 7, 17])
def test_a_range_that_is_none(bit_depth: int) -> None:
    with pytest.raises(ValueError, match=f"`bit_depth` must be in .8, 16., got {bit_depth}"):
        FolderDataModule("x", bit_depth=bit_depth)


def _modules(root: Path, **options: Any) -> dict[str, FineGrainedDataModule]:
    """Data modules of every kind that may read images of few bits, of the same classes."""
    files = sorted((root / "folders" / "train").rglob("*.png"))
    rows = [{"image": path, "label": 0} for path in files]
    opened = [Image.open(path) for path in files]
    own_reader = ImageFolder(root / "folders" / "train", loader=Image.open)
    shard = write_shards(root / "folders" / "train", root / "shards-{000..000}.tar")
    encoded = [{"image": {"bytes": path.read_bytes()}, "label": 0} for path in files]
    (root / "cars").mkdir(exist_ok=True)
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(encoded), root / "cars" / f"{split}.parquet")
    folders, uncounted = str(root / "folders"), {"check_counts": False, **options}
    return {
        "files": DatasetDataModule(files, **options),
        "paths in dicts": DatasetDataModule(rows, **options),
        "bytes": DatasetDataModule([path.read_bytes() for path in files], **options),
        "PIL images": DatasetDataModule(opened, **options),
        "ImageFolder": DatasetDataModule(ImageFolder(root / "folders" / "train"), **options),
        "ImageFolder with a reader of its own": DatasetDataModule(own_reader, **options),
        "shards": DatasetDataModule(shard, **options),
        "CUB": CUBDataModule(folders, **uncounted),
        "Aircraft": AircraftDataModule(folders, banner=2, **uncounted),
        "Cars": CarsDataModule(str(root / "cars"), **uncounted),
    }


def test_every_source_refuses_or_scales_few_bits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i in range(3):
            _save(tmp_path / "folders" / split / "wren" / f"{i}.png", _levels(12), np.uint16)
    for data in _modules(tmp_path).values():
        with pytest.raises(UserError, match=r"4095 is its largest.*`data.bit_depth=12`"):
            data.setup()
    for kind, data in _modules(tmp_path, bit_depth=12).items():
        data.setup()
        source = data.sources["train"]
        assert np.asarray(source.load(0)).max() > 180, kind
        assert np.asarray(source.serve(1, 4)).max() > 180, kind
