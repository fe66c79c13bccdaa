"""Which parts an encoder of synthetic birds sees: does the nearer class change with the one part that is changed?

    python -m experiments.bench.part_changes base=base/last.ckpt zoom=zoom/last.ckpt --json part-changes.json

Each test image is drawn twice, alike but for the part by which its class differs from the nearest one. Of these two
classes the nearer is the one whose mean embedding over the training images has the larger cosine. An image counts
if both of its drawings are nearer to their own class: none does for an encoder that is blind to the part.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from experiments.attend import POOLINGS
from experiments.bench.pooling import Pooled
from torch import Tensor, nn

from ppssl import SyntheticDataModule
from ppssl.checkpointing.files import restore
from ppssl.data.source import ImageSource
from ppssl.data.synthetic.birds import PARTS
from ppssl.evaluation.splits import embed_splits
from ppssl.utils.results import provenance, show_table, write_json


class Changed(SyntheticDataModule):
    """Synthetic birds whose test images show the same scenes with a bird of the nearest class."""

    def load_sources(self) -> dict[str, ImageSource]:
        """The training images, and the changed test images."""
        sources: dict[str, Any] = super().load_sources()
        test = sources["test"]
        test.labels = np.array([test.nearest_class(label) for label in test.labels])
        test._images = None
        return sources


def follows(usual: Tensor, edited: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Whether the nearer class changes with the part: ``(N,)`` bool.

    Args:
        usual: Embeddings of the images, ``(N, e)``.
        edited: Those of the same scenes with the other class's bird, ``(N, e)``.
        own: Mean embedding of each image's class, ``(N, e)``.
        other: Of the class that differs in that part, ``(N, e)``.
    """
    direction = F.normalize(own, dim=1) - F.normalize(other, dim=1)
    return ((usual * direction).sum(dim=1) > 0) & ((edited * direction).sum(dim=1) < 0)


def measure(encoder: nn.Module, usual: Any, changed: Any) -> dict[str, float]:
    """Share of the test images whose nearer class follows, for each part and in all."""
    splits, edited = embed_splits(encoder, usual), embed_splits(encoder, changed)
    gallery = F.normalize(splits.gallery.features.float(), dim=1)
    owners, labels = (torch.as_tensor(part.labels) for part in (splits.gallery, splits.queries))
    means = torch.stack([gallery[owners == label].mean(dim=0) for label in range(owners.max() + 1)])
    birds = usual.sources["test"]
    nearest = torch.tensor([birds.nearest_class(label) for label in labels.tolist()])
    queries = (splits.queries.features.float(), edited.queries.features.float())
    right = follows(*queries, means[labels], means[nearest]).float()
    of_part = torch.tensor([birds.distinguishing_part(label) for label in labels.tolist()])
    found = {part: right[of_part == i].mean().item() for i, part in enumerate(PARTS)}
    return found | {"all": right.mean().item()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoints", nargs="+", help="NAME=PATH of a checkpoint of `ppssl fit`.")
    parser.add_argument("--pooling", choices=POOLINGS, default="mean")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    # As in the recipe ppssl:synthetic/pretrain.
    modules = [kind(image_size=64, num_workers=0) for kind in (SyntheticDataModule, Changed)]
    found = {}
    for name, _, path in (text.partition("=") for text in arguments.checkpoints):
        model: Any = restore(nn.Module, Path(path), {})
        found[name] = measure(Pooled(model.encoder, arguments.pooling), *modules)
    write_json(
        arguments.json, {"pooling": arguments.pooling, "rows": found, "provenance": provenance()}
    )
    cells = [
        [name, *(f"{100 * share:.1f}" for share in row.values())] for name, row in found.items()
    ]
    show_table("The nearer class follows the part", ["encoder", *PARTS, "all"], cells)


if __name__ == "__main__":
    main()
