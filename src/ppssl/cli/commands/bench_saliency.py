"""``ppssl bench saliency``: compare saliency maps of the image, each stage and the output."""

from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from ppssl.cli.arguments import add_data, add_device
from ppssl.studies.bench_saliency.benchmark import bench_saliency
from ppssl.studies.bench_saliency.figures import draw_bars, draw_examples
from ppssl.studies.bench_saliency.tables import markdown_tables, short_table
from ppssl.utils.paths import expand, writing
from ppssl.utils.results import show_table, write_json

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Argument parser of the command."""
    saliency = ArgumentParser(
        description="Compare GradCAM of the image, of each stage and of the output, before and after training: "
        "reproducibility and, if the data set has masks (as synthetic birds have), energy on the object and on the "
        "part that distinguishes similar classes. On photographs: --before start --foreground grabcut. "
        "Example: ppssl bench saliency --checkpoints seed0/last.ckpt seed1/last.ckpt --out runs/saliency; "
        "a seed is trained by `ppssl fit --config ppssl:synthetic/pretrain --seed_everything=0 "
        "--trainer.default_root_dir=seed0`.",
        exit_on_error=False,
    )
    saliency.add_argument(
        "--checkpoints",
        type=str,
        nargs="+",
        required=True,
        help="Checkpoints of `ppssl fit`, one per seed.",
    )
    saliency.add_argument(
        "--out",
        type=str,
        required=True,
        help="Folder for saliency.json, saliency.md and the figures.",
    )
    saliency.add_argument("--images", type=int, default=256, help="Number of images.")
    saliency.add_argument(
        "--before",
        type=Literal["random", "start"],
        default="random",
        help="Weights before training: random ones, or those that the training began with.",
    )
    saliency.add_argument(
        "--foreground",
        type=Literal["annotated", "grabcut"],
        default="annotated",
        help="Where the object is: as the data set knows, or estimated by OpenCV's GrabCut, for photographs that are "
        "cropped to the object with a margin.",
    )
    add_data(saliency, "Recipe with the data set; default: the data set of the first checkpoint.")
    add_device(saliency)
    return saliency


def run(args: Namespace) -> int:
    """Run the benchmark, write JSON, tables and figures, and print the table at equal resolution."""
    benchmark = bench_saliency(
        args.checkpoints,
        args.get("data"),
        images=args.images,
        before=args.before,
        foreground=args.foreground,
        device=args.device,
    )
    content, out = benchmark.content, expand(args.out)
    headings, cells = short_table(content["rows"])
    show_table("After training, equal resolution", headings, cells, caption=f"all results: {out}")
    write_json(out / "saliency.json", content)
    with writing(out):
        (out / "saliency.md").write_text(markdown_tables(content))
        draw_bars(content).savefig(out / "bars.png", dpi=120)
        draw_examples(benchmark).savefig(out / "examples.png", dpi=120)
    return 0
