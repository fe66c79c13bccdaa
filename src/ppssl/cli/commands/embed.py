"""``ppssl embed CKPT --data RECIPE --out FILE.parquet``: write the embeddings of a data set."""

import pyarrow.parquet as pq
from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from ppssl.cli.arguments import (
    add_checkpoint,
    add_data,
    add_device,
    add_feature,
    add_seed,
    check_separate,
    expand_data_recipe,
    load_data,
)
from ppssl.inference.embed import embed
from ppssl.inference.embedding_file import read_description
from ppssl.utils.paths import writable_file, writable_parquet
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Embed all images and print what was written."""
    parser = ArgumentParser(
        prog="ppssl embed",
        description="Write a Parquet file with split, path, class, label, index and embedding of all images. "
        "The same command continues after an interruption. Example: ppssl embed last.ckpt --data ppssl:folder/pretrain "
        "--data.root path/to/images --out embeddings.parquet",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    add_data(parser)
    parser.add_argument("--out", type=str, required=True, help="The .parquet file to write.")
    add_feature(parser)
    add_device(parser)
    add_seed(parser)
    args = parser.parse_args(expand_data_recipe(argv))
    writable_file(args.out)
    check_separate(args, ["out"], ["checkpoint"])
    writable_parquet(args.out)
    seed_everything(args.seed, verbose=False)
    data = load_data(parser, args, args.checkpoint)
    out = embed(args.checkpoint, data, args.out, feature=args.feature, device=args.device)
    rows = [
        ["images", str(pq.read_metadata(out).num_rows)],
        ["dimensions", str(read_description(out).dim)],
    ]
    show_table("Embeddings", ["", ""], rows, caption=str(out))
    return 0
