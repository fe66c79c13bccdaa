"""Embeddings for an evaluation: a gallery of labelled training images, and queries."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.label_splits import select_held_out, select_labelled
from ppssl.data.normalisation import normalised
from ppssl.data.source import UNKNOWN
from ppssl.inference.embedding_file import read_description, read_embeddings
from ppssl.inference.embeddings import Embeddings, Feature, embed_loader
from ppssl.utils.config import Configurable
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError
from ppssl.utils.paths import PATH_TYPES, AnyPath

__all__ = ["Splits", "embed_splits", "query_images", "read_splits", "source_config"]

HELD_OUT = 0.1
"""Part of each class that is held out as queries, for a file that has training images only."""


@dataclass(frozen=True)
class Splits:
    """Embeddings of a gallery and of queries.

    Attributes:
        gallery: Labelled training images.
        queries: Images of ``query_split``.
        query_split: ``"test"``; without a test split ``"val"``, else ``"train"``: images that are not in the gallery.
        labels: ``(N,)`` int64, the labels of all training images, ``UNKNOWN`` where there is none.
        offset: Index of the first training image; ``index - offset`` is the position in ``labels``.
    """

    gallery: Embeddings
    queries: Embeddings
    query_split: str
    labels: np.ndarray
    offset: int

    def summary(self) -> str:
        """Return one line: which images are the gallery, and which the queries."""
        queries = f"{len(self.queries.index):,} images of the {self.query_split} split"
        if self.query_split == "train":
            queries = (
                f"{len(self.queries.index):,} held-out training images (there is no test or val split), which the "
                "encoder may have been pretrained on"
            )
        return f"Gallery: {len(self.gallery.index):,} labelled training images. Queries: {queries}."

    def with_labels(self, fraction: float, seed: int) -> "Splits":
        """Return the same queries, with the gallery that a data module's ``label_fraction`` selects.

        The fraction is of the training images that are no queries.
        """
        labels = self.labels.copy()
        if self.query_split == "train":
            labels[self.queries.index.numpy() - self.offset] = UNKNOWN
        index = select_labelled(labels, fraction, seed) + self.offset
        return replace(self, gallery=_with_index(self.gallery, index))


def query_images(data: FineGrainedDataModule) -> tuple[str, np.ndarray | None]:
    """Split of a data set's queries, and their numbers within it; ``None``: all images of the split.

    Raises:
        UserError: There are no labels, or no images that can be queries.
    """
    if not data.has_labels():
        raise UserError(
            "Nothing to evaluate against: no training image has a label. Put images into class folders."
        )
    split = next((name for name in ("test", "val") if name in data.sources), "train")
    if split == "train" and not len(data.train_val):
        raise UserError(
            "Nothing to evaluate on: there is no test split, and no labelled image is held out. Add a `test/` folder, "
            f"or raise `val_fraction` above {data.val_fraction}."
        )
    if not (data.sources[split].labels != UNKNOWN).any():
        raise UserError(
            f"Nothing to evaluate on: no image of the {split} split has a label. Put images into class folders."
        )
    return split, data.train_val if split == "train" else None


def embed_splits(encoder: Any, data: FineGrainedDataModule, *, device: str = "auto") -> Splits:
    """Embed gallery and queries of a data set.

    Args:
        encoder: ``(B, 3, H, W) -> (B, D)``, with timm's ``pretrained_cfg``.
        data: The data set.
        device: Device of the encoder; ``"auto"``: a GPU if there is one.

    Raises:
        UserError: There are no labels, or no images that can be queries.
    """
    data.setup()
    split, query_items = query_images(data)
    gallery_items = data.train_fit if split == "train" else data.train_labelled
    cfg = encoder.pretrained_cfg
    with on_device(encoder, device), normalised(data, cfg["mean"], cfg["std"]):
        query_loader = data.eval_loader(split, query_items)
        queries = embed_loader(encoder, query_loader, data, description=f"Embedding {split}")
        gallery_loader = data.eval_loader("train", gallery_items)
        gallery = embed_loader(encoder, gallery_loader, data, description="Embedding train")
    return Splits(gallery, queries, split, data.sources["train"].labels, data.offset("train"))


def read_splits(path: Any, feature: Feature = "gap", *, seed: int) -> Splits:
    """Read gallery and queries from a file of :func:`~ppssl.inference.embed.embed`, all into memory.

    Args:
        path: Path of the ``.parquet`` file.
        feature: The feature that the file is expected to hold.
        seed: Seed of the held-out part, for a file that has training images only.

    Raises:
        UserError: The file does not exist, holds another feature, or has no labelled training image.
    """
    stored = read_description(path).feature
    if stored != feature:
        raise UserError(
            f"{path} holds `{stored}` embeddings, not `{feature}`: choose `feature: {stored}`."
        )
    by_split = _read_by_split(path)
    train = by_split.get("train")
    if train is None or not (train.labels != UNKNOWN).any():
        raise UserError(
            f"Nothing to evaluate against: {path} has no labelled training image. Embed images in "
            "class folders."
        )
    offset = _train_offset(by_split)
    labels = np.full(int(train.index.max()) + 1 - offset, UNKNOWN)
    labels[train.index.numpy() - offset] = train.labels.numpy()
    labelled = select_labelled(labels, 1.0, seed)
    for split in ("test", "val"):
        if split in by_split:
            gallery = _with_index(train, labelled + offset)
            return Splits(gallery, by_split[split], split, labels, offset)
    held_out = select_held_out(labels, labelled, HELD_OUT, seed)
    gallery = _with_index(train, np.setdiff1d(labelled, held_out) + offset)
    return Splits(gallery, _with_index(train, held_out + offset), "train", labels, offset)


def source_config(
    model: Any, data: FineGrainedDataModule | None = None, feature: Feature = "gap"
) -> dict[str, Any]:
    """Describe model and data as plain data, for results.

    Args:
        model: A model or the path of a checkpoint; without ``data`` the path of a file of embeddings.
        data: The data set.
        feature: The feature; stated only if it is not the default.
    """
    if data is None:
        return {"embeddings": str(model), "description": asdict(read_description(model))}
    config: dict[str, Any] = {"model": type(model).__name__, "data": data.config()}
    if isinstance(model, PATH_TYPES):
        config["model"] = str(model)
    elif isinstance(model, Configurable):
        config["model"] = model.config()
    return config if feature == "gap" else config | {"feature": feature}


def _read_by_split(path: AnyPath) -> dict[str, Embeddings]:
    """All rows of a file of embeddings, by split."""
    batches: dict[str, list[Embeddings]] = {}
    for embeddings, columns in read_embeddings(path):
        splits = np.array([row["split"] for row in columns])
        for name in dict.fromkeys(splits.tolist()):
            rows = _select(embeddings, torch.from_numpy(splits == name))
            batches.setdefault(name, []).append(rows)
    return {name: _concatenate(parts) for name, parts in batches.items()}


def _train_offset(by_split: dict[str, Embeddings]) -> int:
    """Index of the first training image: one above the largest index of the splits before it."""
    first = int(by_split["train"].index.min())
    ends = [int(e.index.max()) + 1 for e in by_split.values() if e.index.max() < first]
    return max(ends, default=0)


def _with_index(embeddings: Embeddings, index: np.ndarray) -> Embeddings:
    """The rows whose image index is in ``index``."""
    return _select(embeddings, torch.from_numpy(np.isin(embeddings.index.numpy(), index)))


def _select(embeddings: Embeddings, rows: Tensor) -> Embeddings:
    return Embeddings(embeddings.features[rows], embeddings.labels[rows], embeddings.index[rows])


def _concatenate(parts: list[Embeddings]) -> Embeddings:
    return Embeddings(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.index for part in parts]),
    )
