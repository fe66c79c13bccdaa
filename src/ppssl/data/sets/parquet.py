"""Images in Parquet files, as mirrors on model hubs have them: a row has an encoded image and a label."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.progress import Progress

from ppssl.data.images import read_image
from ppssl.data.sets.tables import fail
from ppssl.data.source import ImageSource, digest
from ppssl.utils.errors import UserError

__all__ = ["ParquetSource", "find_parquet", "read_parquet"]

_ROWS = 64


class ParquetSource(ImageSource):
    """The images of Parquet files, in the order of their names and rows.

    Parquet cannot be read image by image, so that the encoded images are copied once into a file below
    ``$PPSSL_CACHE/parquet`` or ``~/.cache/ppssl/parquet``, as large as the images, which is mapped into memory.

    Args:
        files: The files, with a column ``image``, a struct with the encoded ``bytes``, and a column ``label``, integers
            from 0.

    Attributes:
        classes: As the files' metadata name them, or ``class 0`` and so on.

    Raises:
        UserError: A file is damaged or has other columns, an image is missing, or a label is none.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        names, labels = {file: _check_columns(file) for file in files}, []
        for file in files:
            if names[file] != names[files[0]]:
                fail(file, f"its classes are not those of {files[0].name}")
            labels.append(_labels(file, names[file]))
        self.labels = np.concatenate(labels)
        count = int(self.labels.max(initial=-1)) + 1
        self.classes = names[files[0]] or [f"class {k}" for k in range(count)]
        self._starts = np.cumsum([0, *(len(part) for part in labels)])
        self._copy = _copied(files, self.fingerprint())
        self._table: Any = None

    def load(self, i: int) -> Image.Image:
        """Image ``i``, see :func:`~ppssl.data.images.read_image`."""
        if self._table is None:
            self._table = _map(self._copy)
        content = self._table["bytes"][int(i)].as_py()
        return read_image(content)

    def name(self, i: int) -> str:
        """The file and the row, from 0."""
        part = int(np.searchsorted(self._starts, i, side="right")) - 1
        return f"{self.files[part]}, row {i - self._starts[part]}"

    def fingerprint(self) -> str:
        """Of the files' names and of their footers, which tell where each column lies: no image is read."""
        return digest(f"{file.name} {_footer(file).hex()}" for file in self.files)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}  # each worker maps the file itself


def find_parquet(folder: Path, split: str) -> list[Path]:
    """The files of a split, ``train-00000-of-00002.parquet`` or ``train.parquet``, sorted."""
    return sorted({*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")})


def read_parquet(home: Path) -> dict[str, ImageSource]:
    """``train`` and ``test`` of Parquet files in a folder.

    Raises:
        UserError: There are none of ``test``, or one is not as it should be.
    """
    files = {split: find_parquet(home, split) for split in ("train", "test")}
    if not files["test"]:
        raise UserError(f"{home} has Parquet files of `train` and none of `test` (test-*.parquet).")
    sources: dict[str, ImageSource] = {s: ParquetSource(found) for s, found in files.items()}
    train, test = sources["train"], sources["test"]
    if set(test.classes) - set(train.classes) or test.classes != train.classes[: len(test.classes)]:
        fail(files["test"][0], f"its classes are not those of {files['train'][0].name}")
    test.classes = train.classes
    return sources


def _check_columns(file: Path) -> list[str]:
    """The class names of a file's metadata, empty where it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        fail(file, f"is no Parquet file or damaged: {error}")
    if "image" not in schema.names or "label" not in schema.names:
        fail(file, f"columns `image` and `label` are expected; it has {', '.join(schema.names)}")
    image, label = schema.field("image").type, schema.field("label").type
    if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0):
        fail(file, f"`image` must be a struct with `bytes`, and is {image}")
    if not pa.types.is_integer(label):
        fail(file, f"`label` must be an integer, and is {label}")
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = described["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    if not isinstance(names, list) or len({*map(str, names)}) != len(names):
        fail(file, "the class names in its metadata are not distinct")
    return [str(name) for name in names]


def _footer(file: Path) -> bytes:
    """What a Parquet file ends with: the footer, its length in four bytes, and ``PAR1``."""
    with file.open("rb") as content:
        content.seek(-8, os.SEEK_END)
        length = int.from_bytes(content.read(4), "little")
        content.seek(-8 - length, os.SEEK_END)
        return content.read(length)


def _labels(file: Path, classes: list[str]) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(file, columns=["label"])["label"]
    except (pa.ArrowException, OSError) as error:
        fail(file, f"is damaged: {error}")
    if column.null_count:
        fail(file, f"{column.null_count} of its {len(column)} rows have no label")
    labels = column.to_numpy().astype(np.int64)
    too_large = labels >= len(classes) if classes else np.zeros(len(labels), dtype=bool)
    wrong = np.flatnonzero((labels < 0) | too_large)
    if len(wrong):
        bounds = f"from 0 to {len(classes) - 1}" if classes else "at least 0"
        fail(file, f"row {wrong[0]}: label {labels[wrong[0]]} is out of range: it must be {bounds}")
    return labels


def _copied(files: list[Path], fingerprint: str) -> Path:
    """The images' bytes in an Arrow file; made if it is not there, by one process of all, completely or not at all."""
    import pyarrow as pa

    cache = Path(os.environ.get("PPSSL_CACHE") or Path.home() / ".cache" / "ppssl") / "parquet"
    place = cache / f"{fingerprint}.arrow"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{fingerprint}.lock"):
            if not place.is_file():
                part = place.with_suffix(".part")
                _copy(files, part)
                os.replace(part, place)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"Cannot copy the images of {files[0].parent} to {cache}: {error}."
        ) from error
    return place


def _copy(files: list[Path], part: Path) -> None:
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
                    fail(file, "some of its rows have a path in place of the image's bytes")
                writer.write_batch(pa.record_batch([content.cast(pa.large_binary())], schema))
                progress.advance(task, len(content))


def _map(place: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(place))).read_all()
