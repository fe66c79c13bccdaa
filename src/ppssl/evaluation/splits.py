"""The embeddings that are compared: a gallery of labelled training images, and queries."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.labels import held_out, labelled
from ppssl.data.source import UNKNOWN
from ppssl.inference.embed import read_description, read_embeddings
from ppssl.inference.embeddings import Embeddings, embed_loader
from ppssl.inference.features import Feature
from ppssl.utils.device import on_device
from ppssl.utils.errors import UserError

__all__ = ["Splits", "embed_splits", "read_splits"]

HELD_OUT = 0.1
"""Part of each class of a file's training images that queries where it has no other split."""


@dataclass(frozen=True)
class Splits:
    """What is looked for, and among what.

    Attributes:
        gallery: Labelled training images.
        queries: Those of ``query_split``.
        query_split: ``"test"``; where there is none ``"val"``, else ``"train"``: images that are not in the gallery.
        labels: ``(N,)`` int64 of all training images, ``UNKNOWN`` where there is none.
        offset: What to subtract from a training image's index to get its place in ``labels``.
    """

    gallery: Embeddings
    queries: Embeddings
    query_split: str
    labels: np.ndarray
    offset: int

    def with_labels(self, fraction: float, seed: int) -> "Splits":
        """The same queries, and of the gallery what a data module's ``label_fraction`` leaves."""
        kept = labelled(self.labels, fraction, seed) + self.offset
        return replace(self, gallery=_rows(self.gallery, _among(self.gallery.index, kept)))


def embed_splits(encoder: Any, data: FineGrainedDataModule, *, device: str = "auto") -> Splits:
    """Embed the images of a data set.

    Args:
        encoder: ``(B, 3, H, W) -> (B, D)``, with timm's ``pretrained_cfg``.
        data: The data set.
        device: Where the encoder runs; ``"auto"``: a GPU if there is one.

    Raises:
        UserError: No labels, or no images that could query.
    """
    data.setup()
    if not data.has_labels():
        raise UserError(
            "Nothing to evaluate against: no training image has a label. Put images into class folders."
        )
    cfg = encoder.pretrained_cfg
    data.normalise_with(tuple(cfg["mean"]), tuple(cfg["std"]))
    split = next((name for name in ("test", "val") if name in data.sources), "train")
    items, among = (
        (data.train_val, data.train_fit) if split == "train" else (None, data.train_labelled)
    )
    if items is not None and not len(items):
        raise UserError(
            "Nothing to evaluate on: there is no test split, and no label is held out. Add a `test/` folder, or raise "
            f"`val_fraction` above {data.val_fraction}."
        )
    with on_device(encoder, device):
        queries, gallery = (
            embed_loader(
                encoder, data.eval_loader(part, rows), data, description=f"Embedding {part}"
            )
            for part, rows in ((split, items), ("train", among))
        )
    return Splits(gallery, queries, split, data.sources["train"].labels, data.offset("train"))


def read_splits(path: Any, feature: Feature = "gap", *, seed: int) -> Splits:
    """The embeddings in a file of :func:`~ppssl.inference.embed.embed`; all of them are held in memory.

    Args:
        path: The ``.parquet``.
        feature: Which embedding the file is expected to hold.
        seed: For what is held out where the file has training images only.

    Raises:
        UserError: No such file, of another feature, or no labels.
    """
    if not isinstance(path, str | Path):
        raise UserError(
            "`data` is missing: without it a file of embeddings takes the place of the model."
        )
    held = read_description(path).feature
    if held != feature:
        raise UserError(
            f"{path} holds `{held}` embeddings, not `{feature}`: choose `feature: {held}`."
        )
    parts: dict[str, list[Embeddings]] = {}
    for found, names in read_embeddings(path):
        splits = np.array([row["split"] for row in names])
        for name in dict.fromkeys(splits.tolist()):
            parts.setdefault(name, []).append(_rows(found, torch.from_numpy(splits == name)))
    whole = {name: _joined(rows) for name, rows in parts.items()}
    train = whole.get("train")
    if train is None or not (train.labels != UNKNOWN).any():
        raise UserError(
            f"Nothing to evaluate against: {path} has no labelled training image. Embed images in "
            "class folders."
        )
    start = int(train.index.min())
    offset = max(
        (int(e.index.max()) + 1 for e in whole.values() if e.index.max() < start), default=0
    )
    labels = np.full(int(train.index.max()) + 1 - offset, UNKNOWN)
    labels[train.index.numpy() - offset] = train.labels.numpy()
    split = next((name for name in ("test", "val") if name in whole), "train")
    known = labelled(labels, 1.0, seed)
    out = held_out(labels, known, HELD_OUT, seed) if split == "train" else known[:0]
    gallery = _rows(train, _among(train.index, np.setdiff1d(known, out) + offset))
    queries = whole[split] if split != "train" else _rows(train, _among(train.index, out + offset))
    return Splits(gallery, queries, split, labels, offset)


def _among(index: Tensor, kept: np.ndarray) -> Tensor:
    return torch.from_numpy(np.isin(index.numpy(), kept))


def _rows(found: Embeddings, rows: Tensor) -> Embeddings:
    return Embeddings(found.features[rows], found.labels[rows], found.index[rows])


def _joined(parts: list[Embeddings]) -> Embeddings:
    columns = ((e.features, e.labels, e.index) for e in parts)
    return Embeddings(*(torch.cat(column) for column in zip(*columns, strict=True)))
