"""``ppssl export CKPT --to FORMAT --out DIR``: hand an encoder on."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ppssl.cli.arguments import add_checkpoint
from ppssl.inference.export import Format, export
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Parse, export, say what was compared."""
    parser = ArgumentParser(
        prog="ppssl export",
        description="Write a checkpoint's encoder for another library, read it back in a clean process, compare "
        "features, and write a model card. Example: ppssl export last.ckpt --to timm --out exported",
        exit_on_error=False,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--to",
        type=Format,
        required=True,
        help="torchvision takes ResNets; onnx needs its packages.",
    )
    parser.add_argument("--out", type=str, required=True, help="The folder to make.")
    args = parser.parse_args(argv)
    difference = export(args.checkpoint, args.to, args.out)
    files = ", ".join(sorted(path.name for path in Path(args.out).iterdir()))
    rows = [["files", files], ["largest difference of a feature", f"{difference:.3g}"]]
    show_table(f"Exported to {args.to}", ["", ""], rows, caption=args.out)
    return 0
