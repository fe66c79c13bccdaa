"""Embeddings of a whole data set in one Parquet file: written part by part, gone on with after an interruption.

A row an image: ``split``, ``path`` (its name where it has no file), ``class`` (null where unknown), ``label`` (-1
likewise), ``index`` and ``embedding``, a list of D float32. Beside the rows the file holds the encoder's
fingerprint and how the images were prepared, so that nothing is compared with the embeddings of another encoder.
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
from torch import nn

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.source import digest
from ppssl.inference.embeddings import Embeddings, embed_loader
from ppssl.inference.features import Feature, feature_encoder
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError

__all__ = ["Description", "embed", "fingerprint", "read_description", "read_embeddings"]

PART = 4096
"""Images a part, which is what is held in memory."""
_KEY = b"ppssl"


@dataclass(frozen=True)
class Description:
    """What a file's embeddings are of.

    Attributes:
        encoder: Fingerprint of the weights, see :func:`fingerprint`.
        data: Fingerprint of the images.
        image_size: Height and width of the encoder's input in pixels.
        eval_crop: The centre crop, as a fraction of the short side.
        dim: D.
        feature: Which embedding, see :func:`~ppssl.inference.features.feature_encoder`.
    """

    encoder: str
    data: str
    image_size: int
    eval_crop: float
    dim: int
    feature: Feature = "gap"


def embed(
    model: nn.Module | str | Path,
    data: FineGrainedDataModule,
    out: str | Path,
    *,
    feature: Feature = "gap",
    device: str = "auto",
    part_size: int = PART,
) -> Path:
    """Embed every image of all splits.

    Finished parts are kept beside ``out`` until it is complete: the same call goes on from them, and where ``out`` is
    already what would be written, nothing is done. ``out`` is the old file or the new one, never half of it.

    Args:
        model: A timm model or a model of ppssl, or the path of a checkpoint.
        data: The data set.
        out: The ``.parquet`` to write.
        feature: Which embedding, see :func:`~ppssl.inference.features.feature_encoder`.
        device: Where the encoder runs; ``"auto"``: a GPU if there is one.
        part_size: Images a part.

    Raises:
        UserError: The checkpoint cannot be read, has no such feature, or ``out`` cannot be written.
    """
    import pyarrow.parquet as pq

    out = Path(out)
    encoder = feature_encoder(model, feature)
    data.setup()
    cfg = encoder.pretrained_cfg
    data.normalise_with(tuple(cfg["mean"]), tuple(cfg["std"]))
    description = _describe(encoder, data, feature)
    if out.is_file() and _try_description(out) == description:
        return out
    parts = out.with_name(f".{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        with on_device(encoder, device):
            files = [
                _part(parts, encoder, data, split, items, description)
                for split, items in _parts(data, part_size)
            ]
        whole = parts / "whole"
        with pq.ParquetWriter(whole, pq.read_schema(files[0])) as writer:
            for file in files:
                writer.write_table(pq.read_table(file))
        whole.replace(out)
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error}.") from error
    shutil.rmtree(parts)
    return out


def read_description(path: str | Path) -> Description:
    """What the embeddings in a file are of.

    Raises:
        UserError: No such file, or not one of :func:`embed`.
    """
    if not Path(path).is_file():
        raise UserError(f"No such file of embeddings: {path}; `ppssl embed` writes one.")
    found = _try_description(Path(path))
    if found is None:
        raise UserError(f"{path} is no file of embeddings: `ppssl embed` writes one.")
    return found


def read_embeddings(
    path: str | Path, rows: int = PART
) -> Iterator[tuple[Embeddings, list[dict[str, Any]]]]:
    """The embeddings in a file, some rows at a time, with ``split``, ``path`` and ``class`` of each row."""
    import pyarrow.parquet as pq

    description = read_description(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows):
            values = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            features = torch.from_numpy(values.reshape(-1, description.dim).copy())
            label, index = (
                torch.from_numpy(batch.column(name).to_numpy().copy())
                for name in ("label", "index")
            )
            names = batch.select(["split", "path", "class"]).to_pylist()
            yield Embeddings(features, label, index), names


def fingerprint(encoder: nn.Module) -> str:
    """16 hexadecimal digits of the SHA-256 of an encoder's weights and their names."""
    sha = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def _describe(encoder: Any, data: FineGrainedDataModule, feature: Feature) -> Description:
    images = digest(f"{name} {source.fingerprint()}" for name, source in data.sources.items())
    dim = getattr(encoder, "head_hidden_size", None) or encoder.num_features
    return Description(fingerprint(encoder), images, data.image_size, data.eval_crop, dim, feature)


def _try_description(path: Path) -> Description | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        return Description(**json.loads(metadata[_KEY]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None  # another kind of file, or a torn one


def _parts(data: FineGrainedDataModule, size: int) -> Iterator[tuple[str, np.ndarray]]:
    for split, source in data.sources.items():
        for start in range(0, len(source), size):
            yield split, np.arange(start, min(start + size, len(source)))


def _part(
    folder: Path,
    encoder: nn.Module,
    data: FineGrainedDataModule,
    split: str,
    items: np.ndarray,
    description: Description,
) -> Path:
    """The file of one part, made if it is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / f"{split}-{items[0]}-{len(items)}.parquet"
    if _try_description(file) == description:
        return file
    source = data.sources[split]
    told = f"Embedding {split} {items[0]} to {items[-1]} of {len(source)}"
    found = embed_loader(encoder, data.eval_loader(split, items), data, description=told)
    numbers = (found.index - data.offset(split)).tolist()
    labels = found.labels.tolist()
    values = pa.array(found.features.numpy().ravel())
    columns: dict[str, Any] = {
        "split": pa.array([split] * len(numbers), pa.string()),
        "path": pa.array([source.name(i) for i in numbers], pa.string()),
        "class": pa.array([source.classes[k] if k >= 0 else None for k in labels], pa.string()),
        "label": pa.array(labels, pa.int64()),
        "index": pa.array(found.index.tolist(), pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(values, description.dim),
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(asdict(description))})
    pq.write_table(table, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)
    return file
