"""``ppssl explain CKPT IMAGE... --out DIR``: what an encoder looks at in a user's own images."""

from dataclasses import replace

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import track
from torch import nn

from ppssl.checkpointing.files import restore
from ppssl.cli.arguments import add_checkpoint, add_device
from ppssl.functional import Reference
from ppssl.inference.explain import BATCH, View, explain, image_files
from ppssl.metrics.classification import class_number

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Parse, explain a few images at a time, write a PNG for each."""
    parser = ArgumentParser(
        prog="ppssl explain",
        description="Maps of what raises the cosine of an image's embedding with that of its mirrored copy, beside "
        "the image: GradCAM of the image itself, Grad-CAM at the output layer, and what IADM attends to. "
        "Of a classifier also of what raises a class. "
        "Example: ppssl explain last.ckpt photo.jpg path/to/images --out runs/explain",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    parser.add_argument("images", type=str, nargs="+", help="Image files, and folders of them.")
    parser.add_argument(
        "--out", type=str, required=True, help="Folder of the PNG files; none is overwritten."
    )
    parser.add_argument(
        "--image-size",
        type=int | None,
        default=None,
        help="Height and width in pixels; default: as in training.",
    )
    parser.add_argument(
        "--reference",
        type=Reference,
        default="blur",
        help="What an image is compared with, for its own GradCAM.",
    )
    parser.add_argument(
        "--class",
        type=str | None,
        default=None,
        help="Of a classifier's checkpoint: explain this class's logit, by its name or number.",
    )
    add_device(parser)
    args = parser.parse_args(argv)
    view = View.of(args.checkpoint)
    view = view if args.image_size is None else replace(view, size=args.image_size)
    paths = image_files(args.images).paths
    model = restore(nn.Module, args.checkpoint, {})
    score = {
        "reference": args.reference,
        "class_index": None if args["class"] is None else class_number(model, args["class"]),
    }
    written = []
    for rows in track(torch.arange(len(paths)).split(BATCH), "Explaining", transient=True):
        chunk = [paths[i] for i in rows.tolist()]
        found = explain(model, chunk, view=view, device=args.device, **score)
        written += found.save(args.out)
    Console().print(f"{len(written)} images explained in {args.out}", soft_wrap=True)
    return 0
