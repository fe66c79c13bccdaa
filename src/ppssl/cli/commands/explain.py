"""``ppssl explain CKPT IMAGE... --out DIR``: draw saliency maps of an encoder for image files."""

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import track
from torch import nn

from ppssl.checkpointing.files import restore
from ppssl.cli.arguments import add_checkpoint, add_device
from ppssl.functional import Reference
from ppssl.inference.explain import BATCH, View, explain_in_batches, image_files
from ppssl.metrics.classification import class_number
from ppssl.utils.checks import check_pixels
from ppssl.utils.paths import writable_folder

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Compute saliency maps of a few images at a time, and write a PNG for each image."""
    args = _parser().parse_args(argv)
    check_pixels(image_size=args.image_size)
    out = writable_folder(args.out)
    view = View.of(args.checkpoint)
    if args.image_size is not None:
        view = view._replace(size=args.image_size)
    source = image_files(args.images)
    model = restore(nn.Module, args.checkpoint, {})
    class_index = None if args["class"] is None else class_number(model, args["class"])
    explanations = explain_in_batches(
        model,
        source,
        view=view,
        class_index=class_index,
        reference=args.reference,
        device=args.device,
    )
    written = []
    batches = -(-len(source) // BATCH)
    for explanation in track(explanations, "Explaining", total=batches, transient=True):
        written += explanation.save(out)
    Console().print(f"{len(written)} images explained in {out}", soft_wrap=True, markup=False)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ppssl explain",
        description="Draw each image with its saliency maps for the cosine similarity of its embedding and that of its "
        "mirror image: GradCAM of the image, Grad-CAM at the output layer, and IADM's attention. "
        "For a classifier, also the maps of a class. "
        "Example: ppssl explain last.ckpt photo.jpg path/to/images --out runs/explain",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    parser.add_argument("images", type=str, nargs="+", help="Image files, or folders of them.")
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        help="Folder for the PNG files, named by their images; none is overwritten.",
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
        help="Reference that an image is compared with, for GradCAM of the image.",
    )
    parser.add_argument(
        "--class",
        type=str | None,
        default=None,
        help="For a classifier: explain the logit of this class, by name or number.",
    )
    add_device(parser)
    return parser
