"""``ppssl bench saliency``: what saliency maps show, by where they are taken."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ppssl.cli.arguments import add_data, add_device
from ppssl.studies.bench_saliency.benchmark import bench_saliency
from ppssl.studies.bench_saliency.figures import draw_bars, draw_examples
from ppssl.studies.bench_saliency.tables import markdown_tables, short_table
from ppssl.utils.results import show_table, write_json

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Its options."""
    own = ArgumentParser(
        description="Compare GradCAM of the image, of each stage and of the output, before and after training: is it "
        "reproducible, is it on the object, does it find the part by which look-alike classes differ? (The last two "
        "where the data set has masks, as synthetic birds have.) "
        "Example: ppssl bench saliency --checkpoints seed0/last.ckpt seed1/last.ckpt --out runs/saliency; "
        "a seed is trained by `ppssl fit --config ppssl:synthetic/pretrain --seed_everything=0 "
        "--trainer.default_root_dir=seed0`.",
        exit_on_error=False,
    )
    own.add_argument(
        "--checkpoints", type=str, nargs="+", required=True, help="Of `ppssl fit`; several: seeds."
    )
    own.add_argument(
        "--out", type=str, required=True, help="Folder of saliency.json, saliency.md and figures."
    )
    own.add_argument("--images", type=int, default=256, help="How many images are looked at.")
    add_data(own, "A recipe; default: the first checkpoint's own data set.")
    add_device(own)
    return own


def run(args: Namespace) -> int:
    """Measure, write JSON, tables and figures, print the table at equal resolution."""
    benchmark = bench_saliency(
        args.checkpoints, args.get("data"), images=args.images, device=args.device
    )
    content, out = benchmark.content, Path(args.out)
    write_json(out / "saliency.json", content)
    (out / "saliency.md").write_text(markdown_tables(content))
    draw_bars(content).savefig(out / "bars.png", dpi=120)
    draw_examples(benchmark).savefig(out / "examples.png", dpi=120)
    headings, cells = short_table(content["rows"])
    show_table("After training, equal resolution", headings, cells, caption=f"all of it: {out}")
    return 0
