"""Files of embeddings: their columns, their metadata, and their reading with all that is checked.

A file has one row per image: ``split``, ``path`` (the image's name where it has no file), ``class`` (null where
unknown), ``label`` (-1 where unknown), ``index`` and ``embedding``, a list of D float32. Its metadata hold the
encoder's fingerprint and the preprocessing, so that embeddings of two encoders are never compared by mistake.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from ppssl.checkpointing.view import View
from ppssl.data.source import UNKNOWN
from ppssl.inference.embeddings import Embeddings, Feature
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand
from ppssl.utils.results import finite_or_null

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Description",
    "list_column",
    "read_description",
    "read_embeddings",
    "try_description",
    "with_description",
    "write_table",
]

ROWS = 4096
"""Rows that are read at once."""
_METADATA_KEY = b"ppssl"
_LARGE = 2**30
_LARGEST_RATIO = 100
"""A file whose embeddings take more bytes than ``_LARGE`` and than this multiple of its size is refused."""
_SPLITS = ("train", "val", "test")
_SIZES = ("image_size", "dim")


@dataclass(frozen=True)
class Description:
    """Metadata of a file of embeddings: encoder, data and preprocessing.

    Attributes:
        encoder: Fingerprint of the encoder's weights, see :func:`~ppssl.inference.embed.fingerprint`.
        data: Fingerprint of the images, see :func:`~ppssl.inference.embed.images_fingerprint`.
        image_size: Height and width of the encoder's input in pixels.
        eval_crop: The centre crop, as a fraction of the short side.
        dim: Dimension D of an embedding.
        feature: The feature, see :func:`~ppssl.inference.embeddings.feature_encoder`.
        squash: Whether the images were squashed to squares first.
        rows: Fingerprint of the images' names, classes and labels.
        bit_depth: Bits that values of 16 or 32 bits were taken to have.
    """

    encoder: str
    data: str
    image_size: int
    eval_crop: float
    dim: int
    feature: Feature = "gap"
    squash: bool = False  # files of earlier versions do not say so
    rows: str = ""  # nor this
    bit_depth: int | None = None

    @property
    def view(self) -> View:
        """Preprocessing of the images."""
        return View(self.image_size, self.eval_crop, self.squash, self.bit_depth)


def read_description(path: AnyPath) -> Description:
    """Read the metadata of a file of embeddings.

    Raises:
        UserError: The file does not exist, is damaged, has no rows, or was not written by
            :func:`~ppssl.inference.embed.embed`.
    """
    import pyarrow.parquet as pq

    path = expand(path)
    if not path.is_file():
        raise UserError(f"No such file of embeddings: {path}. Write one with `ppssl embed`.")
    description = try_description(path)
    if description is None:
        raise UserError(f"{path} is not a file of embeddings. Write one with `ppssl embed`.")
    rows = pq.read_metadata(path).num_rows
    if not rows:
        raise UserError(f"{path} has no embeddings. Write it again with `ppssl embed`.")
    size = rows * description.dim * 4
    if size > max(_LARGE, _LARGEST_RATIO * path.stat().st_size):
        raise UserError(
            f"{path} has {path.stat().st_size / 1e6:.1f} MB, and its embeddings would take {size / 1e9:.1f} GB: they "
            "are all the same, or made to exhaust the memory."
        )
    return description


def read_embeddings(
    path: AnyPath, rows: int = ROWS
) -> Iterator[tuple[Embeddings, list[dict[str, Any]]]]:
    """Read a file of embeddings in batches of rows, each with ``split``, ``path`` and ``class`` of its rows.

    Raises:
        UserError: The file cannot be read as by :func:`read_description`; a column is missing, of another type or
            empty in a row, an embedding is not finite, a label is < -1, a split is none of ``train``, ``val`` and
            ``test``, or the indices are not in ascending order.
    """
    import pyarrow.parquet as pq

    description = read_description(path)
    path = expand(path)
    last = -1
    with _one_line(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        batches = file.iter_batches(rows)
        while True:
            with _one_line(path):
                batch = next(batches, None)
                if batch is None:
                    return
                embeddings, columns = _checked(batch, description.dim, last)
                last = int(embeddings.index[-1])
            yield embeddings, columns


def _checked(batch: pa.RecordBatch, dim: int, last: int) -> tuple[Embeddings, list[dict[str, Any]]]:
    """Embeddings and columns of a batch of rows after the index ``last``; ``ValueError`` says what is wrong with it."""
    import pyarrow as pa

    schema = _schema(dim)
    if missing := [name for name in schema.names if name not in batch.schema.names]:
        raise ValueError(f"there is no column `{missing[0]}`")
    table = pa.Table.from_batches([batch]).select(schema.names).cast(schema).combine_chunks()
    values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    features = torch.from_numpy(values.reshape(-1, dim).copy())
    label, index = (torch.from_numpy(table[name].to_numpy().copy()) for name in ("label", "index"))
    columns = table.select(["split", "path", "class"]).to_pylist()
    if other := {row["split"] for row in columns} - set(_SPLITS):
        raise ValueError(f"a `split` is `{min(other)}`, not one of {', '.join(_SPLITS)}")
    if not features.isfinite().all():
        raise ValueError("an `embedding` is not finite")
    if int(label.min()) < UNKNOWN:
        raise ValueError(f"a `label` is {int(label.min())}, below {UNKNOWN}")
    if not (torch.cat([torch.tensor([last]), index]).diff() > 0).all():
        raise ValueError("`index` is negative, or not in ascending order")
    return Embeddings(features, label, index), columns


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what pyarrow and the checks raise into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"Cannot use the embeddings {path}: {said}. Write them again with `ppssl embed`."
        ) from error


def _schema(dim: int) -> pa.Schema:
    import pyarrow as pa

    columns = [
        pa.field("split", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("class", pa.string()),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
    ]
    return pa.schema(columns)


def list_column(rows: Tensor) -> Any:
    """A pyarrow array of lists of equal length from ``(N, D)`` floating point."""
    import pyarrow as pa

    values = pa.array(rows.cpu().numpy().ravel())
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])


def with_description(table: pa.Table, description: Description) -> pa.Table:
    """The table with its metadata."""
    text = json.dumps(finite_or_null(asdict(description)))
    return table.replace_schema_metadata({_METADATA_KEY: text})


def write_table(table: pa.Table, file: Path) -> None:
    """Write a Parquet file with checksums, in one step: after an interruption it is the old or the new one."""
    import pyarrow.parquet as pq

    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        pq.write_table(table, part, write_page_checksum=True)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def try_description(path: Path) -> Description | None:
    """The metadata of a file, or ``None`` if there is none, it is of another kind, or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        description = Description(**json.loads(metadata[_METADATA_KEY]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    sizes = [getattr(description, name) for name in _SIZES]
    usable = (
        all(isinstance(size, int) and size > 0 for size in sizes)
        and isinstance(description.eval_crop, (int, float))
        and description.feature in get_args(Feature)
        and isinstance(description.squash, bool)
        and description.bit_depth in (None, *range(8, 17))
    )
    return description if usable else None
