"""Embeddings of a loader's images, once; every metric works on these."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.encoder import evaluation_mode

__all__ = ["Embeddings", "embed_loader"]


@dataclass(frozen=True)
class Embeddings:
    """One row an image, ascending by index, each image once.

    Attributes:
        features: ``(N, D)`` float32, on the CPU, not normalised.
        labels: ``(N,)`` int64, -1 where unknown.
        index: ``(N,)`` int64, the image's number in the full data set.
    """

    features: Tensor
    labels: Tensor
    index: Tensor


@torch.inference_mode()
def embed_loader(
    model: nn.Module,
    loader: DataLoader[Any],
    data: FineGrainedDataModule,
    *,
    description: str = "Embedding",
) -> Embeddings:
    """Run the images of an evaluation loader through an encoder.

    Args:
        model: ``(B, 3, H, W) -> (B, D)``; used in evaluation mode, on the device of its parameters.
        loader: One of ``data``'s evaluation loaders.
        data: Normalises the images; tell it first with which mean and std (``normalise_with``).
        description: Beside the progress bar.
    """
    device = next(model.parameters()).device
    rows = []
    with evaluation_mode(model):
        for raw in track(loader, description=description, transient=True):
            batch = data.on_before_batch_transfer(raw, 0)
            image = data.normalise(batch["image"].to(device))
            rows.append((model(image).float().cpu(), batch["label"], batch["index"]))
    features, labels, index = (torch.cat(column) for column in zip(*rows, strict=True))
    _, once = np.unique(index, return_index=True)  # a broken image's substitute occurs twice
    return Embeddings(features[once], labels[once], index[once])
