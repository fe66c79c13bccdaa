"""How hard the synthetic birds are: colour histograms, a random encoder, and a small supervised network.

    python experiments/bench/difficulty.py --out experiments/results/synthetic-difficulty.json

Hard but solvable means: colours alone say little, a random encoder says little, and a small network that is told the
classes finds them. About ten CPU minutes.
"""

import argparse
import os
import time

import numpy as np
import torch
from rich.progress import track
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.data.transforms import MoCoV2Augmentation, apply_view
from ppssl.evaluation.evaluate import evaluate
from ppssl.studies.lightning_cli import build_recipe
from ppssl.utils.resnet_small import resnet_small
from ppssl.utils.results import provenance, write_json

TRAIN, TEST, SIZE, EPOCHS, BATCH, WIDTH = 5000, 2000, 64, 14, 64, 24
AUGMENTATION = MoCoV2Augmentation(
    crop_scale=(0.7, 1.0), grey_probability=0.0, blur_probability=0.2, jitter=(0.2, 0.2, 0.2, 0.02)
)


def histograms(birds: SyntheticBirds) -> np.ndarray:
    """``(N, 512)``: square roots of 8 x 8 x 8 RGB histograms (Hellinger distance)."""
    bins = birds.materialise().numpy() >> 5
    cells = (bins[:, 0].astype(int) * 64 + bins[:, 1] * 8 + bins[:, 2]).reshape(len(bins), -1)
    return np.sqrt(np.stack([np.bincount(row, minlength=512) for row in cells]) / cells.shape[1])


def histogram_knn(train: SyntheticBirds, test: SyntheticBirds) -> dict[str, float]:
    """Top-1 accuracy of colour histograms."""
    gallery, queries = histograms(train), histograms(test)
    return {
        f"histogram knn-{k}": KNeighborsClassifier(k)
        .fit(gallery, train.labels)
        .score(queries, test.labels)
        for k in (1, 5, 20)
    }


def normalised(pixels: Tensor) -> Tensor:
    """``(B, 3, S, S)`` uint8 to float32 about 0."""
    return ((pixels.float() / 255 - 0.45) / 0.25).contiguous(memory_format=torch.channels_last)


def supervised(train: SyntheticBirds, test: SyntheticBirds, seed: int) -> dict[str, float]:
    """A ResNet of 0.7 million parameters, told the classes, on fresh test images."""
    torch.manual_seed(seed)
    started = time.process_time()
    model = resnet_small(width=WIDTH, num_classes=len(train.classes)).to(
        memory_format=torch.channels_last
    )
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=steps, pct_start=0.15
    )
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    labels = torch.from_numpy(train.labels)
    for epoch in track(range(EPOCHS), description="Supervised"):
        for index in torch.randperm(len(train))[: steps // EPOCHS * BATCH].view(-1, BATCH):
            views = [
                apply_view(
                    train.load(int(i)),
                    AUGMENTATION.sample(seed, epoch, int(i), 0, size=(96, 96), view_size=SIZE),
                    SIZE,
                )
                for i in index
            ]
            optimizer.zero_grad()
            loss(model(normalised(torch.stack(views))), labels[index]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        small = torch.nn.functional.interpolate(
            test.materialise().float(), SIZE, mode="bilinear", antialias=True
        )
        predicted = torch.cat(
            [model(normalised(part)).argmax(1) for part in small.split(250)]
        ).numpy()
    nearest = np.array([test.nearest_class(int(label)) for label in test.labels])
    return {
        "supervised top-1": float((predicted == test.labels).mean()),
        "supervised confused with the nearest class": float((predicted == nearest).mean()),
        "supervised CPU seconds": time.process_time() - started,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="experiments/results/synthetic-difficulty.json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = SyntheticBirds(TRAIN), SyntheticBirds(TEST, split="test")
    metrics = histogram_knn(train, test)
    quiet = ["--trainer.logger=false", f"--seed_everything={args.seed}"]
    built = build_recipe("ppssl:synthetic/pretrain", quiet)
    random = evaluate(built.model, built.datamodule).metrics
    metrics |= {f"random encoder {name}": random[name] for name in ("knn-5", "linear")}
    metrics |= supervised(train, test, args.seed)
    config = {
        "train": TRAIN,
        "test": TEST,
        "size": SIZE,
        "epochs": EPOCHS,
        "batch": BATCH,
        "width": WIDTH,
    }
    units = {name: "s" if name.endswith("seconds") else "fraction" for name in metrics}
    content = {
        "metrics": metrics,
        "units": units,
        "config": config,
        "seed": args.seed,
        "threads": torch.get_num_threads(),
    }
    write_json(
        args.out,
        content | {"schema_version": 1, "cores": os.cpu_count(), "provenance": provenance()},
    )


if __name__ == "__main__":
    main()
