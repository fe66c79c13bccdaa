"""Embed a whole data set into one Parquet file, part by part; an interrupted call can be repeated and continues.

What is in the file: :mod:`ppssl.inference.embedding_file`.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppssl.checkpointing.view import View
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.normalisation import normalised
from ppssl.data.source import digest
from ppssl.inference.data_set import data_for
from ppssl.inference.embedding_file import (
    Description,
    list_column,
    read_description,
    try_description,
    with_description,
    write_table,
)
from ppssl.inference.embeddings import Feature, embed_loader, feature_encoder
from ppssl.utils.checks import check_range
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, only_writer, writable_parquet, writing

__all__ = [
    "check_same_images",
    "embed",
    "fingerprint",
    "image_columns",
    "images_fingerprint",
]

PART = 4096
"""Images per part; the embeddings of one part are held in memory."""


def embed(
    model: nn.Module | AnyPath,
    data: FineGrainedDataModule | None = None,
    out: AnyPath | None = None,
    *,
    feature: Feature = "gap",
    device: str = "auto",
    part_size: int = PART,
) -> Path:
    """Embed all images of all splits of a data set into a Parquet file.

    Finished parts are kept beside ``out`` until the file is complete, and the same call continues from them. If ``out``
    already holds these embeddings with these names and labels, nothing is done; image files are told apart by their
    names and sizes in bytes, so remove ``out`` after a change that leaves both. ``out`` is replaced in one step, so it
    is never half written.

    Args:
        model: A timm model or a model of ppssl, or the path of a checkpoint.
        data: The data set; ``None``: the one that the checkpoint was trained on.
        out: The ``.parquet`` to write; it must be given.
        feature: The feature, see :func:`~ppssl.inference.embeddings.feature_encoder`.
        device: Device of the encoder; ``"auto"``: a GPU if there is one.
        part_size: Images per part, >= 1.

    Returns:
        The path of the file.

    Raises:
        UserError: The checkpoint cannot be read, names no data set or lacks the feature, ``data`` is no data module of
            ppssl, or ``out`` is missing, cannot be written, has another ending, or is being written by another process.
    """
    check_range(">= 1", part_size=part_size)
    data = data_for(model, data)
    if out is None:
        raise UserError("`out` is missing: name the file to write, `out=...`.")
    out = writable_parquet(out)
    encoder = feature_encoder(model, feature)
    data.setup()
    description = _description_of(encoder, data, feature)
    if out.is_file() and try_description(out) == description:
        return out
    parts = out.with_name(f".{out.name}.parts")
    with writing(out):
        parts.mkdir(parents=True, exist_ok=True)
        mean, std = (encoder.pretrained_cfg[name] for name in ("mean", "std"))
        with only_writer(out, parts), on_device(encoder, device), normalised(data, mean, std):
            files = [
                _embed_part(parts, encoder, data, split, items, description)
                for split, items in _split_into_parts(data, part_size)
            ]
            _join(files, parts / "complete").replace(out)
    shutil.rmtree(parts, ignore_errors=True)
    return out


def _join(files: Sequence[Path], whole: Path) -> Path:
    """Write the rows of several files as one; returns its path."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(files[0])
    with pq.ParquetWriter(whole, schema, write_page_checksum=True) as writer:
        for file in files:
            writer.write_table(pq.read_table(file, page_checksum_verification=True))
    return whole


def image_columns(data: FineGrainedDataModule, index: Tensor, labels: Tensor) -> dict[str, Any]:
    """Columns ``split``, ``path``, ``class``, ``label`` and ``index`` of images, as pyarrow arrays.

    Args:
        data: The data set, after its ``setup``.
        index: ``(N,)`` int64, the images' numbers in the full data set.
        labels: ``(N,)`` int64, -1 where unknown.
    """
    import pyarrow as pa

    located = [data.locate(i) for i in index.tolist()]
    names = [data.sources[split].name(number) for split, number in located]
    classes = [
        data.sources[split].classes[label] if label >= 0 else None
        for (split, _), label in zip(located, labels.tolist(), strict=True)
    ]
    return {
        "split": pa.array([split for split, _ in located], pa.string()),
        "path": pa.array(names, pa.string()),
        "class": pa.array(classes, pa.string()),
        "label": pa.array(labels.tolist(), pa.int64()),
        "index": pa.array(index.tolist(), pa.int64()),
    }


def fingerprint(encoder: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of an encoder's weights and their names."""
    sha = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def _description_of(encoder: Any, data: FineGrainedDataModule, feature: Feature) -> Description:
    images = images_fingerprint(data)
    dim = getattr(encoder, "head_hidden_size", None) or getattr(encoder, "num_features", 0)
    if not dim:
        raise UserError(
            f"The length of an embedding is not known: set `num_features` of the `{type(encoder).__name__}`."
        )
    size, crop, squashed, bits = View.of_data(data)
    model, rows = fingerprint(encoder), _rows_fingerprint(data)
    return Description(model, images, size, crop, dim, feature, squashed, rows, bits)


def images_fingerprint(data: FineGrainedDataModule) -> str:
    """Hash of the images of a data set, after its ``setup``; of files: names and sizes in bytes, not pixels."""
    return digest(f"{name} {source.served()}" for name, source in data.sources.items())


def check_same_images(embeddings: AnyPath, data: FineGrainedDataModule) -> None:
    """Check that a file of embeddings is of the images of a data set, after its ``setup``.

    Raises:
        UserError: The file cannot be read, or is of other images.
    """
    if read_description(embeddings).data != images_fingerprint(data):
        raise UserError(
            f"{embeddings} is of other images than the data set, or they were squashed otherwise: give its data set, "
            "or write it again with `ppssl embed`."
        )


def _rows_fingerprint(data: FineGrainedDataModule) -> str:
    """Hash of what a file says of the images: names, which change if a folder is moved, classes and labels."""
    lines = []
    for source in data.sources.values():
        lines += [source.name(i) for i in range(len(source))]
        lines += [*source.classes, source.labels.tobytes().hex()]
    return digest(lines)


def _split_into_parts(data: FineGrainedDataModule, size: int) -> Iterator[tuple[str, np.ndarray]]:
    for split, source in data.sources.items():
        for start in range(0, len(source), size):
            yield split, np.arange(start, min(start + size, len(source)))


def _embed_part(
    folder: Path,
    encoder: nn.Module,
    data: FineGrainedDataModule,
    split: str,
    items: np.ndarray,
    description: Description,
) -> Path:
    """Return the file of one part; embed and write it if it does not exist yet."""
    import pyarrow as pa

    file = folder / f"{split}-{items[0]}-{len(items)}.parquet"
    if try_description(file) == description:
        return file
    progress = f"Embedding {split} {items[0]} to {items[-1]} of {len(data.sources[split])}"
    embedded = embed_loader(encoder, data.eval_loader(split, items), data, description=progress)
    columns = image_columns(data, embedded.index, embedded.labels)
    columns["embedding"] = list_column(embedded.features)
    write_table(with_description(pa.table(columns), description), file)
    return file
