"""``duplicates``: images of a data set that are the same or nearly so, also across splits, and a page of them."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.normalisation import normalised
from ppssl.data.survey import equal_files
from ppssl.inference.data_set import data_for
from ppssl.inference.duplicates import LocatedPair, find_duplicates, located, with_equal_files
from ppssl.inference.embeddings import Embeddings, embed_loader, feature_encoder
from ppssl.reports.page import render
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import Section
from ppssl.reports.sections.duplicates import drawn_pairs
from ppssl.utils.device import on_device
from ppssl.utils.paths import AnyPath, writable_file, write_whole

__all__ = ["duplicates"]

SHOWN = 200
"""Pairs that are drawn."""


def duplicates(
    model: nn.Module | AnyPath,
    data: FineGrainedDataModule | None = None,
    *,
    out: AnyPath | None = None,
    device: str = "auto",
) -> list[LocatedPair]:
    """Find images that are the same or nearly so.

    Equal files are found by their hash among all images; equal and nearly equal pixels among the pairs with the most
    similar embeddings (:func:`ppssl.inference.duplicates.find_duplicates`).

    Args:
        model: A timm model or a model of ppssl, or the path of a checkpoint.
        data: The data set; ``None``: the one that the checkpoint was trained on.
        out: Draw at most :data:`SHOWN` pairs to this ``.html`` file, which needs no network; ``None``: do not.
        device: Device of the encoder; ``"auto"``: a GPU if there is one.

    Returns:
        The pairs: equal ones first, then by falling similarity.

    Raises:
        UserError: The checkpoint or an image cannot be read, or the page cannot be written.
    """
    data = data_for(model, data)
    page = None if out is None else writable_file(out)
    images = _embed_all(feature_encoder(model), data, device)
    found = with_equal_files(find_duplicates(images, data), equal_files(data), images)
    pairs = [located(pair, data) for pair in found]
    if page is not None:
        write_whole(page, _page(pairs, data))
    return pairs


def _embed_all(encoder: Any, data: FineGrainedDataModule, device: str) -> Embeddings:
    """Embeddings of all images of all splits, on the CPU."""
    data.setup()
    cfg = encoder.pretrained_cfg
    with on_device(encoder, device), normalised(data, cfg["mean"], cfg["std"]):
        parts = [
            embed_loader(encoder, data.eval_loader(split), data, description=f"Embedding {split}")
            for split in data.sources
        ]
    index = torch.cat([part.index for part in parts])
    order = torch.from_numpy(np.argsort(index.numpy(), kind="stable"))
    features = torch.cat([part.features.cpu() for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return Embeddings(features[order], labels[order], index[order])


def _page(pairs: list[LocatedPair], data: FineGrainedDataModule) -> str:
    content = drawn_pairs(pairs, Pictures(data), SHOWN) if pairs else "None was found."
    section = Section("duplicates", "Images that occur twice", {"": content})
    return render("Duplicates", [section], command="duplicates")
