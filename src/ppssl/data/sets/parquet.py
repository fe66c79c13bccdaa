"""Image source of Parquet files with one encoded image and one label per row, as on model hubs."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.progress import Progress

from ppssl.data.files import EncodedSource
from ppssl.data.sets.tables import raise_file_error
from ppssl.data.source import ImageSource, digest, path_text
from ppssl.utils.errors import UserError
from ppssl.utils.paths import cache_folder

__all__ = ["ParquetSource", "find_parquet", "read_parquet"]

_ROWS = 64


class ParquetSource(EncodedSource):
    """Images of Parquet files, in the order of file names and rows.

    Parquet has no random access to single images, so the encoded images are copied once into a memory-mapped file
    below ``$PPSSL_CACHE/parquet`` or ``~/.cache/ppssl/parquet``, which is as large as the images.

    Args:
        files: Parquet files with a column ``image``, a struct with the encoded ``bytes``, and a column ``label``,
            integers from 0.

    Attributes:
        classes: Class names of the files' metadata, else ``class 0`` and so on.

    Raises:
        UserError: A file is damaged or has other columns, or an image or a label is missing or invalid.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        names = {file: _check_columns(file) for file in files}
        labels = []
        for file in files:
            if names[file] != names[files[0]]:
                raise_file_error(file, f"its classes differ from those of {files[0].name}")
            labels.append(_labels(file, names[file]))
        self.labels = np.concatenate(labels)
        count = int(self.labels.max(initial=-1)) + 1
        self.classes = names[files[0]] or [f"class {k}" for k in range(count)]
        self._starts = np.cumsum([0, *(len(part) for part in labels)])
        self._copy = _copied(files, self.fingerprint())
        self._table: Any = None

    def encoded(self, i: int) -> bytes:
        """Bytes of image ``i``."""
        return bytes(self._content(i))

    def encoded_size(self, i: int) -> int:
        """Number of bytes of image ``i``."""
        return len(self._content(i))

    def _content(self, i: int) -> memoryview:
        if self._table is None:
            self._table = _map(self._copy)
        return memoryview(self._table["bytes"][int(i)].as_buffer())

    def name(self, i: int) -> str:
        """Name of image ``i``: its file and its row, from 0."""
        part = int(np.searchsorted(self._starts, i, side="right")) - 1
        return f"{path_text(self.files[part])}, row {i - self._starts[part]}"

    def fingerprint(self) -> str:
        """Hash of the files' names and footers, which state the position of each column; no image is read."""
        return digest(f"{file.name} {_footer(file).hex()}" for file in self.files)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}  # each worker maps the file itself


def find_parquet(folder: Path, split: str) -> list[Path]:
    """Find the Parquet files of a split, ``train-00000-of-00002.parquet`` or ``train.parquet``, sorted."""
    return sorted({*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")})


def read_parquet(home: Path) -> dict[str, ImageSource]:
    """Read the splits ``train`` and ``test`` from the Parquet files of a folder.

    Raises:
        UserError: There are no files of ``test``, or a file is malformed.
    """
    files = {split: find_parquet(home, split) for split in ("train", "test")}
    if not files["test"]:
        raise UserError(
            f"{home} has Parquet files of `train` but none of `test`: add test-*.parquet."
        )
    sources: dict[str, ImageSource] = {s: ParquetSource(paths) for s, paths in files.items()}
    train, test = sources["train"], sources["test"]
    if set(test.classes) - set(train.classes) or test.classes != train.classes[: len(test.classes)]:
        raise_file_error(
            files["test"][0], f"its classes differ from those of {files['train'][0].name}"
        )
    test.classes = train.classes
    return sources


def _check_columns(file: Path) -> list[str]:
    """Check the columns of a file and read the class names of its metadata; empty if it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise_file_error(file, f"not a Parquet file, or damaged: {error}")
    if "image" not in schema.names or "label" not in schema.names:
        raise_file_error(
            file, f"columns `image` and `label` are required, got {', '.join(schema.names)}"
        )
    image, label = schema.field("image").type, schema.field("label").type
    if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0):
        raise_file_error(file, f"`image` must be a struct with `bytes`, got {image}")
    if not pa.types.is_integer(label):
        raise_file_error(file, f"`label` must be an integer, got {label}")
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    if not isinstance(names, list) or len({str(name) for name in names}) != len(names):
        raise_file_error(file, "the class names in its metadata are not distinct")
    return [str(name) for name in names]


def _footer(file: Path) -> bytes:
    """Read the footer of a Parquet file, which ends with the footer, its length in four bytes, and ``PAR1``."""
    with file.open("rb") as content:
        content.seek(-8, os.SEEK_END)
        length = int.from_bytes(content.read(4), "little")
        content.seek(-8 - length, os.SEEK_END)
        return content.read(length)


def _labels(file: Path, classes: list[str]) -> np.ndarray:
    """Read and check the labels of a file, ``(N,)`` int64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(file, columns=["label"])["label"]
    except (pa.ArrowException, OSError) as error:
        raise_file_error(file, f"damaged file: {error}")
    if column.null_count:
        raise_file_error(file, f"{column.null_count} of its {len(column)} rows have no label")
    labels = column.to_numpy().astype(np.int64)
    too_large = labels >= len(classes) if classes else np.zeros(len(labels), dtype=bool)
    wrong = np.flatnonzero((labels < 0) | too_large)
    if len(wrong):
        bounds = f"from 0 to {len(classes) - 1}" if classes else "at least 0"
        raise_file_error(
            file, f"row {wrong[0]}: label {labels[wrong[0]]} is out of range: it must be {bounds}"
        )
    return labels


def _copied(files: list[Path], fingerprint: str) -> Path:
    """Path of the Arrow file of the images' bytes; created if missing, atomically, by one process at a time."""
    import pyarrow as pa

    cache = cache_folder() / "parquet"
    copy = cache / f"{fingerprint}.arrow"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{fingerprint}.lock"):
            if not copy.is_file():
                part = copy.with_suffix(".part")
                _copy(files, part)
                os.replace(part, copy)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"Cannot copy the images of {files[0].parent} to {cache}: {error}."
        ) from error
    return copy


def _copy(files: list[Path], part: Path) -> None:
    """Copy the images' bytes of Parquet files into an Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("bytes", pa.large_binary())])
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    with (
        pa.OSFile(str(part), "wb") as out,
        pa.ipc.new_file(out, schema) as writer,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("Copying images", total=rows)
        for file in files:
            field = pq.read_schema(file).field("image").type.get_field_index("bytes")
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["image"]):
                content = batch.column("image").flatten()[field]
                if content.null_count:
                    raise_file_error(file, "some rows have a path instead of the image's bytes")
                writer.write_batch(pa.record_batch([content.cast(pa.large_binary())], schema))
                progress.advance(task, len(content))


def _map(file: Path) -> Any:
    """Map an Arrow file into memory."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
