"""A picture of what the encoder sees in each form of experiments/shown.py.

python -m experiments.shown_picture docs/images/shown.png
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from experiments.shown import WINDOW, contrast_maps, edit, windows
from ppssl import SyntheticDataModule
from ppssl.utils.plots.views import view_panel

GREY = 127.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("png", type=Path)
    parser.add_argument("--images", type=int, default=4)
    arguments = parser.parse_args()
    data = SyntheticDataModule(train_size=arguments.images, test_size=1, num_workers=0)
    data.setup()
    images = data.sources["train"].materialise().float()  # type: ignore[attr-defined]
    maps = contrast_maps(data)
    views, seen = images - GREY, maps[:, None]
    shown = {
        "map": heat(maps, images.shape[-1]),
        "zoom": closer(images, windows(maps)),
        "background out": edit(views, seen, "background out", maps) + GREY,
        "clean": edit(views, seen, "background out", maps, fill="background") + GREY,
        "drop the obvious": edit(views, seen, "drop the obvious", maps) + GREY,
    }
    figure = view_panel(
        list(images.byte()),
        {name: [[image.byte()] for image in row] for name, row in shown.items()},
    )
    figure.savefig(arguments.png, dpi=75)


def heat(maps: Tensor, size: int) -> Tensor:
    """Maps as images, ``(N, 3, size, size)`` in [0, 255]."""
    scaled = maps / maps.amax(dim=(1, 2), keepdim=True)
    colours = torch.from_numpy(colormaps["inferno"](scaled.numpy())[..., :3]).permute(0, 3, 1, 2)
    return F.interpolate(255 * colours, (size, size))


def closer(images: Tensor, corners: Tensor) -> Tensor:
    """The window of each image, enlarged to the size of the image."""
    size = images.shape[-1]
    side, places = round(WINDOW * size), (corners * size).round().long().tolist()
    cut = [
        image[:, y : y + side, x : x + side] for image, (x, y) in zip(images, places, strict=True)
    ]
    return F.interpolate(torch.stack(cut), (size, size), mode="bilinear")


if __name__ == "__main__":
    main()
