"""Embed a whole data set into one Parquet file, part by part; an interrupted call can be repeated and continues.

The file has one row per image: ``split``, ``path`` (the image's name where it has no file), ``class`` (null where
unknown), ``label`` (-1 where unknown), ``index`` and ``embedding``, a list of D float32. Its metadata hold the
encoder's fingerprint and the preprocessing, so that embeddings of two encoders are never compared by mistake.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.normalisation import normalised
from ppssl.data.source import digest
from ppssl.inference.embeddings import Embeddings, Feature, embed_loader, feature_encoder
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand, writable_file, writing

__all__ = [
    "Description",
    "embed",
    "fingerprint",
    "image_columns",
    "list_column",
    "read_description",
    "read_embeddings",
]

PART = 4096
"""Images per part; the embeddings of one part are held in memory."""
_METADATA_KEY = b"ppssl"
_LARGE = 2**30
_LARGEST_RATIO = 100
"""A file whose embeddings take more bytes than ``_LARGE`` and than this multiple of its size is refused."""


@dataclass(frozen=True)
class Description:
    """Metadata of a file of embeddings: encoder, data and preprocessing.

    Attributes:
        encoder: Fingerprint of the encoder's weights, see :func:`fingerprint`.
        data: Fingerprint of the images.
        image_size: Height and width of the encoder's input in pixels.
        eval_crop: The centre crop, as a fraction of the short side.
        dim: Dimension D of an embedding.
        feature: The feature, see :func:`~ppssl.inference.embeddings.feature_encoder`.
    """

    encoder: str
    data: str
    image_size: int
    eval_crop: float
    dim: int
    feature: Feature = "gap"


def embed(
    model: nn.Module | AnyPath,
    data: FineGrainedDataModule,
    out: AnyPath,
    *,
    feature: Feature = "gap",
    device: str = "auto",
    part_size: int = PART,
) -> Path:
    """Embed all images of all splits of a data set into a Parquet file.

    Finished parts are kept beside ``out`` until the file is complete, and the same call continues from them. If ``out``
    already holds these embeddings, nothing is done. ``out`` is replaced in one step, so it is never half written.

    Args:
        model: A timm model or a model of ppssl, or the path of a checkpoint.
        data: The data set.
        out: The ``.parquet`` to write.
        feature: The feature, see :func:`~ppssl.inference.embeddings.feature_encoder`.
        device: Device of the encoder; ``"auto"``: a GPU if there is one.
        part_size: Images per part.

    Returns:
        The path of the file.

    Raises:
        UserError: The checkpoint cannot be read or lacks the feature, or ``out`` cannot be written.
    """
    import pyarrow.parquet as pq

    out = writable_file(out)
    encoder = feature_encoder(model, feature)
    data.setup()
    description = _description_of(encoder, data, feature)
    if out.is_file() and _try_description(out) == description:
        return out
    parts = out.with_name(f".{out.name}.parts")
    with writing(out):
        parts.mkdir(parents=True, exist_ok=True)
        cfg = encoder.pretrained_cfg
        with on_device(encoder, device), normalised(data, cfg["mean"], cfg["std"]):
            files = [
                _embed_part(parts, encoder, data, split, items, description)
                for split, items in _split_into_parts(data, part_size)
            ]
        complete = parts / "complete"
        with pq.ParquetWriter(complete, pq.read_schema(files[0])) as writer:
            for file in files:
                writer.write_table(pq.read_table(file))
        complete.replace(out)
    shutil.rmtree(parts)
    return out


def read_description(path: AnyPath) -> Description:
    """Read the metadata of a file of embeddings.

    Raises:
        UserError: The file does not exist, or was not written by :func:`embed`.
    """
    import pyarrow.parquet as pq

    path = expand(path)
    if not path.is_file():
        raise UserError(f"No such file of embeddings: {path}. Write one with `ppssl embed`.")
    description = _try_description(path)
    if description is None:
        raise UserError(f"{path} is not a file of embeddings. Write one with `ppssl embed`.")
    size = pq.read_metadata(path).num_rows * description.dim * 4
    if size > max(_LARGE, _LARGEST_RATIO * path.stat().st_size):
        raise UserError(
            f"{path} has {path.stat().st_size / 1e6:.1f} MB, and its embeddings would take {size / 1e9:.1f} GB: they "
            "are all the same, or made to exhaust the memory."
        )
    return description


def read_embeddings(
    path: AnyPath, rows: int = PART
) -> Iterator[tuple[Embeddings, list[dict[str, Any]]]]:
    """Read a file of embeddings in batches of rows, each with ``split``, ``path`` and ``class`` of its rows."""
    import pyarrow.parquet as pq

    description = read_description(path)
    with pq.ParquetFile(expand(path)) as file:
        for batch in file.iter_batches(rows):
            values = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            features = torch.from_numpy(values.reshape(-1, description.dim).copy())
            label, index = (
                torch.from_numpy(batch.column(name).to_numpy().copy())
                for name in ("label", "index")
            )
            columns = batch.select(["split", "path", "class"]).to_pylist()
            yield Embeddings(features, label, index), columns


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


def list_column(rows: Tensor) -> Any:
    """A pyarrow array of lists of equal length from ``(N, D)`` floating point."""
    import pyarrow as pa

    values = pa.array(rows.cpu().numpy().ravel())
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])


def fingerprint(encoder: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of an encoder's weights and their names."""
    sha = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def _description_of(encoder: Any, data: FineGrainedDataModule, feature: Feature) -> Description:
    images = digest(f"{name} {source.fingerprint()}" for name, source in data.sources.items())
    dim = getattr(encoder, "head_hidden_size", None) or encoder.num_features
    return Description(fingerprint(encoder), images, data.image_size, data.eval_crop, dim, feature)


def _try_description(path: Path) -> Description | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        return Description(**json.loads(metadata[_METADATA_KEY]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None  # another kind of file, or a damaged one


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
    import pyarrow.parquet as pq

    file = folder / f"{split}-{items[0]}-{len(items)}.parquet"
    if _try_description(file) == description:
        return file
    progress = f"Embedding {split} {items[0]} to {items[-1]} of {len(data.sources[split])}"
    embedded = embed_loader(encoder, data.eval_loader(split, items), data, description=progress)
    columns = image_columns(data, embedded.index, embedded.labels)
    columns["embedding"] = list_column(embedded.features)
    table = pa.table(columns).replace_schema_metadata(
        {_METADATA_KEY: json.dumps(asdict(description))}
    )
    pq.write_table(table, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)
    return file
