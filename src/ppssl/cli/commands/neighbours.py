"""``ppssl neighbours IMAGE``: find the nearest images in an embedding file."""

from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from ppssl.cli.arguments import add_data, check_separate, expand_data_recipe
from ppssl.inference.embedding_file import read_description
from ppssl.inference.neighbours import draw_neighbours, neighbours
from ppssl.utils.paths import writable_figure
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Find the nearest images and print a table."""
    parser = ArgumentParser(
        prog="ppssl neighbours",
        description="Find the images of an embedding file that are nearest to an image. "
        "Example: ppssl neighbours wren.jpg --embeddings embeddings.parquet --checkpoint last.ckpt "
        "--out neighbours.png",
        exit_on_error=False,
    )
    parser.add_argument("image", type=str, help="Image file of the query.")
    parser.add_argument(
        "--embeddings", type=str, required=True, help="The .parquet file of `ppssl embed`."
    )
    parser.add_argument(
        "--checkpoint", type=str, required=True, help="Checkpoint that the embeddings are from."
    )
    parser.add_argument("--k", type=int, default=9, help="Number of neighbours.")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Draw the neighbours to this file (.png, .pdf, ...).",
    )
    add_data(parser, "Recipe with the data set; only needed for images that are not files.")
    args = parser.parse_args(expand_data_recipe(argv))
    out = None if args.out is None else writable_figure(args.out)
    check_separate(args, ["out"], ["image", "embeddings", "checkpoint"])
    seed_everything(0, verbose=False)
    data = parser.instantiate(args).data if args.get("data") else None
    nearest = neighbours(args.image, args.embeddings, args.checkpoint, k=args.k, data=data)
    rows = [[n.class_name or "", n.path, n.split, f"{n.similarity:.3f}"] for n in nearest]
    caption = "" if out is None else str(out)
    show_table(args.image, ["class", "image", "split", "similarity"], rows, caption=caption)
    if out is not None:
        bit_depth = read_description(args.embeddings).bit_depth
        draw_neighbours(args.image, nearest, out, data, bit_depth)
    return 0
