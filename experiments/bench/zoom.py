"""Where a second look of an encoder is worth it, without training (D18).

    python -m experiments.bench.zoom --data HALF --backbone tf_efficientnet_lite0 --weights lite0.safetensors \
        --masks vit_s_focus.onnx --json experiments/results/photos/zoom-cub2010-choose.json

Each training image against all others, kNN with k = 5 and mean average precision, centred: by what the encoder says of
the whole image, and by the mean of that and of the window that each kind of map chooses (experiments/zoom_controls.py),
or that shows most of the object (experiments/masks.py).
Labels are used for this measurement alone.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from experiments.bench.corpus import leave_one_out
from experiments.masks import ZoomOnObject, network
from experiments.zoom_controls import PLACES, ZoomElsewhere
from PIL import Image
from rich.progress import track
from torch import Tensor

from ppssl import Teacher, TimmTeacher, ZoomTeacher
from ppssl.utils.results import provenance, show_table, write_json


def embed(teacher: Teacher, files: list[Path]) -> Tensor:
    """Embeddings of image files, ``(N, e)``."""
    rows = []
    for i in track(range(0, len(files), 32), description=teacher.name, transient=True):
        pixels = [teacher.transform(Image.open(path)) for path in files[i : i + 32]]
        rows.append(teacher.embed_images(torch.stack(pixels)))
    return torch.cat(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("data", "weights", "json"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--window", type=float, default=0.64)
    parser.add_argument("--masks", help="Network that finds objects, for the upper bound.")
    parser.add_argument("--every", type=int, default=1, help="Take each n-th class alone.")
    arguments = parser.parse_args()
    backbone, weights = arguments.backbone, str(arguments.weights)
    classes = sorted(p for p in (arguments.data / "train").iterdir() if p.is_dir())
    of_class = [sorted(folder.iterdir()) for folder in classes[:: arguments.every]]
    files = [path for group in of_class for path in group]
    labels = torch.tensor([label for label, group in enumerate(of_class) for _ in group])
    looker = TimmTeacher(backbone, pretrained=weights, image_size=arguments.image_size)
    zoom: dict[str, Any] = {"pretrained": weights, "window": arguments.window}
    teachers: dict[str, Teacher] = {
        "whole": looker,
        "feature map": ZoomTeacher(looker, backbone, **zoom),
    }
    teachers |= {p: ZoomElsewhere(looker, backbone, **zoom, place=p) for p in PLACES}
    if arguments.masks:
        teachers["object"] = ZoomOnObject(looker, backbone, network(arguments.masks), **zoom)
    found = {}
    for name, teacher in teachers.items():
        v = embed(teacher, files)
        found[name] = leave_one_out(v - v.mean(dim=0), labels)
    write_json(
        arguments.json,
        {
            "images": len(files),
            "classes": len(of_class),
            "image_size": arguments.image_size,
            "window": arguments.window,
            "rows": found,
            "provenance": provenance(),
        },
    )
    cells = [[name, *(f"{100 * x:.1f}" for x in row.values())] for name, row in found.items()]
    show_table("Whole image and window", ["window", "kNN-5", "mAP"], cells)


if __name__ == "__main__":
    main()
