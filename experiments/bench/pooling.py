"""What a branch has to beat: the same feature map pooled in ways that learn nothing, on trained plain bases.

    python -m experiments.bench.pooling seed0/last.ckpt seed1/last.ckpt --json pooling.json

Checkpoints are those of `ppssl fit`; several are seeds of one method.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from experiments.attend import POOLINGS
from torch import Tensor, nn

from ppssl.checkpointing.files import restore
from ppssl.evaluation.evaluate import evaluate_splits
from ppssl.evaluation.splits import embed_splits
from ppssl.studies.lightning_cli import build_recipe
from ppssl.utils.results import provenance, show_table, write_json

METRICS = ("knn-1", "knn-5", "linear", "rank-1", "mAP")


class Pooled(nn.Module):
    """An encoder whose feature map is pooled in one of :data:`experiments.attend.POOLINGS`."""

    def __init__(self, encoder: Any, pooling: str) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.pretrained_cfg = encoder.model.pretrained_cfg
        self.num_features = encoder.info.channels

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W) -> (B, C)``."""
        return POOLINGS[self.pooling](self.encoder.features(images).map)


def main() -> None:
    """Each checkpoint with each pooling."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", help="Of `ppssl fit`; several: seeds.")
    parser.add_argument("--recipe", default="ppssl:synthetic/pretrain", help="The data set's.")
    parser.add_argument("--poolings", nargs="+", choices=POOLINGS, default=list(POOLINGS))
    parser.add_argument("--json", type=Path, default=None, help="Write the results to this file.")
    args, options = parser.parse_known_args()  # the rest is the recipe's, such as --data.root=DIR
    data = build_recipe(args.recipe, ["--data.num_workers=0", *options]).datamodule
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.poolings}
    for path in args.checkpoints:
        model: Any = restore(nn.Module, path, {})
        for name, rows in found.items():
            splits = embed_splits(Pooled(model.encoder, name), data)
            metrics = evaluate_splits(splits, seed=0, config={}).metrics
            rows.append({metric: metrics[metric] for metric in METRICS})
    if args.json is not None:
        write_json(args.json, {"poolings": found, "provenance": provenance()})
    cells = [
        [name, *(_mean_and_spread(torch.tensor([row[m] for row in rows])) for m in METRICS)]
        for name, rows in found.items()
    ]
    show_table(f"{len(args.checkpoints)} checkpoints", ["pooling", *METRICS], cells)


def _mean_and_spread(values: Tensor) -> str:
    """As in the tables of studies, in percent; one seed has no spread."""
    spread = f" ± {100 * values.std():.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{spread}"


if __name__ == "__main__":
    main()
