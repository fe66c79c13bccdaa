"""What AIS's distribution over a corpus holds of the teacher's embedding, without training.

    python -m experiments.bench.corpus --data HALF --head head.safetensors --image-weights lite2.safetensors \
        --sentences MINILM --corpus head.txt --json experiments/results/photos/corpus.json

For each whitening, perplexity and control the rows of P are compared (Hellinger distance): kNN with k = 5 and mean
average precision of each training image against all others. Labels are used for this measurement alone.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from experiments.teacher.photographs import Photographs
from torch import Tensor

from ppssl import AIS, FolderDataModule
from ppssl.losses.ais.targets import Control
from ppssl.metrics.retrieval import retrieval_metrics
from ppssl.utils.results import provenance, show_table, write_json

CONTROLS: tuple[Control, ...] = ("none", "rotated_texts", "random_texts")
WHITEN = (None, 1e-3)
PERPLEXITY = (0.1, 0.3, 0.9)


def leave_one_out(rows: Tensor, labels: Tensor) -> dict[str, float]:
    """kNN-5 accuracy and mean average precision of rows ``(N, D)`` by cosine, each against all others.

    The only image of a class does not count in the latter.
    """
    rows = F.normalize(rows, dim=1)
    similarity = (rows @ rows.T).fill_diagonal_(-2)
    value, nearest = similarity.topk(5, dim=1)
    votes = torch.zeros(len(rows), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], (value / 0.07).exp())
    return {
        "knn-5": (votes.argmax(dim=1) == labels).float().mean().item(),
        "mAP": retrieval_metrics(rows, labels)["mAP"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("data", "head", "image-weights", "sentences", "corpus", "json"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    data = FolderDataModule(str(arguments.data), image_size=128, batch_size=64, num_workers=0)
    data.setup()
    labels = torch.from_numpy(data.sources["train"].labels)
    teacher = Photographs(
        str(arguments.head), str(arguments.image_weights), str(arguments.sentences)
    )
    found: list[dict[str, object]] = []
    for whiten in WHITEN:
        for perplexity in PERPLEXITY:
            for control in CONTROLS:
                plugin = AIS(
                    str(arguments.corpus),
                    teacher=teacher,
                    whiten=whiten,
                    perplexity=perplexity,
                    control=control,
                )
                plugin.prepare(data)
                targets = plugin.targets
                v = targets.images.images.float()
                p = targets.probabilities(v).sqrt()
                row = {"whiten": whiten, "perplexity": perplexity, "control": control}
                found.append(row | leave_one_out(p, labels))
                if not found[0].get("v"):
                    found[0]["v"] = leave_one_out(v[:, 0] - targets.images.mean, labels)
    name = arguments.head.stem
    write_json(arguments.json, {"teacher": name, "rows": found, "provenance": provenance()})
    cells = [
        [str(r[key]) for key in ("whiten", "perplexity", "control")]
        + [f"{100 * float(str(r[key])):.1f}" for key in ("knn-5", "mAP")]
        for r in found
    ]
    told = f"v itself, less its mean: {found[0]['v']}"
    columns = ["whiten", "perplexity", "control", "kNN-5", "mAP"]
    show_table(name, columns, cells, caption=told)


if __name__ == "__main__":
    main()
