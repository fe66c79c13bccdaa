"""``ppssl export CKPT --to FORMAT --out DIR``: export an encoder to another library."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ppssl.cli.arguments import add_checkpoint
from ppssl.inference.export import Format, export
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Export, and print the files and the largest difference of the features."""
    parser = ArgumentParser(
        prog="ppssl export",
        description="Export a checkpoint's encoder to another library, load it in a clean process, compare the "
        "features, and write a model card. Example: ppssl export last.ckpt --to timm --out exported",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--to",
        type=Format,
        required=True,
        help="Format; torchvision supports ResNets only, onnx needs its packages.",
    )
    parser.add_argument("--out", type=str, required=True, help="Folder to create.")
    args = parser.parse_args(argv)
    difference = export(args.checkpoint, args.to, args.out)
    files = ", ".join(sorted(path.name for path in Path(args.out).iterdir()))
    rows = [["files", files], ["largest difference of a feature", f"{difference:.3g}"]]
    show_table(f"Exported to {args.to}", ["", ""], rows, caption=args.out)
    return 0
