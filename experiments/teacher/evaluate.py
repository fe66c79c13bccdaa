"""What the teacher knows of birds that it has not met: other pictures, and other combinations of the attributes.

python experiments/teacher/evaluate.py --weights src/ppssl/text/teachers/weights/synthetic-clip.safetensors
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions import Captions
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from ppssl.data.synthetic.birds import ATTRIBUTES, NUISANCES, SyntheticBirds
from ppssl.data.synthetic.classes import MAX_CLASSES
from ppssl.evaluation.logistic_regression_probe import logistic_regression_probe
from ppssl.text.teachers.synthetic_clip import SyntheticCLIP
from ppssl.utils.results import write_json

IMAGES, PROBE_TRAIN = 2000, 1400
PROBED = ("background", "background_hue", "body_hue", "flip")


def figures(weights: Path, captions: Captions, seed: int) -> dict[str, Any]:
    """All that is reported of a file of weights.

    Args:
        weights: What ``train.py`` wrote.
        captions: Where the prompts come from.
        seed: Of the test birds.
    """
    teacher = SyntheticCLIP(weights)
    birds = SyntheticBirds(IMAGES, num_classes=MAX_CLASSES, seed=seed, split="test")
    images = embed(teacher, birds)
    codes = np.concatenate([birds.attributes(), captions.scene_codes(birds.nuisances())], 1)
    right = hits(teacher, images, codes, captions)
    table, parts = accuracies(right, codes, captions), right[:, : len(ATTRIBUTES)]
    scene = {name: table.pop(name) for name in captions.names if name not in ATTRIBUTES}
    return {
        "weights": {
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "bytes": weights.stat().st_size,
            "temperature": teacher.temperature,
        },
        "test": {"seed": seed, "images": IMAGES, "classes": MAX_CLASSES, "split": "test"},
        "attributes": table,
        **({"scene": scene} if scene else {}),
        "mean attribute accuracy": float(parts.mean()),
        "all six attributes right": float(parts.all(1).mean()),
        "accuracy without twigs": _without_twigs(parts, birds),
        "retrieval": retrieval(teacher, images, birds),
        "nuisance probe": nuisance_probe(images, birds),
    }


def embed(teacher: SyntheticCLIP, birds: SyntheticBirds) -> Tensor:
    """``(N, e)`` of all pictures."""
    rows = []
    for start in track(range(0, len(birds), 100), description="Embedding test birds"):
        pixels = [
            teacher.transform(birds.load(i)) for i in range(start, min(start + 100, len(birds)))
        ]
        rows.append(teacher.embed_images(torch.stack(pixels)))
    return torch.cat(rows)


def hits(
    teacher: SyntheticCLIP, images: Tensor, codes: np.ndarray, captions: Captions
) -> np.ndarray:
    """``(N, s)`` bool: zero-shot right or wrong, the value whose prompts' mean embedding is nearest."""
    columns = []
    for stated, size in enumerate(captions.sizes):
        prompts = [teacher.embed_texts(captions.prompts(stated, k)) for k in range(size)]
        texts = F.normalize(torch.stack([rows.mean(0) for rows in prompts]), dim=-1)
        columns.append((images @ texts.T).argmax(1).numpy() == codes[:, stated])
    return np.stack(columns, 1)


def accuracies(
    right: np.ndarray, codes: np.ndarray, captions: Captions
) -> dict[str, dict[str, float]]:
    """Accuracy of each thing that captions state beside chance and the most frequent value's share."""
    return {
        name: {
            "accuracy": float(right[:, k].mean()),
            "chance": 1 / size,
            "majority": float(np.bincount(codes[:, k]).max() / len(codes)),
        }
        for k, (name, size) in enumerate(zip(captions.names, captions.sizes, strict=True))
    }


def retrieval(teacher: SyntheticCLIP, images: Tensor, birds: SyntheticBirds) -> dict[str, float]:
    """A picture among all classes' full captions, and a caption among all pictures."""
    texts = teacher.embed_texts([bird.caption() for bird in birds.birds])
    scores, labels = images @ texts.T, torch.from_numpy(birds.labels)
    ranked = scores.topk(5, dim=1).indices == labels[:, None]
    return {
        "captions": float(len(texts)),
        "image to text, rank 1": float(ranked[:, 0].float().mean()),
        "image to text, rank 5": float(ranked.any(1).float().mean()),
        "text to image, rank 1": float(
            (labels[scores.argmax(0)] == torch.arange(len(texts))).float().mean()
        ),
    }


def nuisance_probe(images: Tensor, birds: SyntheticBirds) -> dict[str, dict[str, float]]:
    """Linear probe of what the teacher should not tell, fitted on a part of the test birds."""
    values = birds.nuisances()
    held_out = torch.arange(PROBE_TRAIN) % 5 == 0
    table = {}
    for name in PROBED:
        _, labels = np.unique(values[:, NUISANCES.index(name)], return_inverse=True)
        y = torch.from_numpy(labels.astype(np.int64))
        found = logistic_regression_probe(
            images[:PROBE_TRAIN], y[:PROBE_TRAIN], images[PROBE_TRAIN:], held_out=held_out
        )
        accuracy = float((found.predictions == y[PROBE_TRAIN:]).float().mean())
        table[name] = {"accuracy": accuracy, "chance": 1 / (1 + int(labels.max()))}
    return table


def _without_twigs(right: np.ndarray, birds: SyntheticBirds) -> float:
    free = birds.nuisances()[:, NUISANCES.index("twigs")] == 0
    return float(right[free].mean())


def main() -> None:
    """Measure a file of weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2_000_001)
    parser.add_argument("--scene", type=Path, help="phrases for the scene, captions-worldly.yaml")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    captions = Captions(Path(__file__).with_name("captions.yaml"), [1.0] * 6, args.scene)
    measured = figures(args.weights, captions, args.seed)
    if args.json is not None:
        write_json(args.json, measured)
    Console().print_json(data=measured)


if __name__ == "__main__":
    main()
