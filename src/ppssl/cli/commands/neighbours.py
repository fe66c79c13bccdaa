"""``ppssl neighbours IMAGE``: the nearest images of an embedding file, as a table and a picture."""

from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from ppssl.cli.arguments import add_data, data_section
from ppssl.inference.neighbours import neighbours
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Parse, look, print a table."""
    parser = ArgumentParser(
        prog="ppssl neighbours",
        description="The images of an embedding file that are nearest to an image. Example: ppssl neighbours wren.jpg "
        "--embeddings embeddings.parquet --checkpoint last.ckpt --out neighbours.png",
        exit_on_error=False,
    )
    parser.add_argument("image", type=str, help="An image file.")
    parser.add_argument(
        "--embeddings", type=str, required=True, help="The .parquet of `ppssl embed`."
    )
    parser.add_argument(
        "--checkpoint", type=str, required=True, help="The encoder that it is from."
    )
    parser.add_argument("--k", type=int, default=9, help="How many.")
    parser.add_argument(
        "--out", type=str | None, default=None, help="Draw them to this file (.png, .pdf, ...)."
    )
    add_data(parser, "A recipe; only for images without files of their own.")
    args = parser.parse_args(data_section(argv))
    seed_everything(0, verbose=False)
    data = parser.instantiate(args).data if args.get("data") else None
    found = neighbours(
        args.image, args.embeddings, args.checkpoint, k=args.k, out=args.out, data=data
    )
    rows = [[n.class_name or "", n.path, n.split, f"{n.similarity:.3f}"] for n in found]
    caption = "" if args.out is None else args.out
    show_table(args.image, ["class", "image", "split", "similarity"], rows, caption=caption)
    return 0
