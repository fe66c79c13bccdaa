"""``ppssl bench loader``: time the data loader."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ppssl.cli.arguments import add_data
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.sets.folder import FolderDataModule
from ppssl.studies.bench_loader.benchmark import bench_loader
from ppssl.studies.bench_loader.figures import draw_parameters, draw_views
from ppssl.studies.bench_loader.photographs import parse_size, write_photographs
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand, writing
from ppssl.utils.results import show_table, write_json

__all__ = ["parser", "run", "with_default_data"]

FOLDER = {"class_path": "ppssl.data.FolderDataModule"}


def parser() -> ArgumentParser:
    """Argument parser of the command."""
    loader = ArgumentParser(
        description="Images per second, two views of MoCo v2 each, beside torchvision and lightly on the same files: "
        "on one core, and ours on all cores. "
        "Example: ppssl bench loader --data.root path/to/images --image-size 224 --json loader.json; "
        "without images: ppssl bench loader --make 500x375",
        exit_on_error=False,
    )
    add_data(loader, "Recipe with the data set; default: the folder of `--data.root`.")
    loader.add_argument(
        "--make",
        type=str | None,
        default=None,
        help="Read made-up JPEGs of this width and height in place of a data set, such as 500x375.",
    )
    loader.add_argument("--image-size", type=int, default=224, help="Height and width of a view.")
    loader.add_argument("--images", type=int, default=64, help="Number of images per round.")
    loader.add_argument("--repeats", type=int, default=5, help="Number of timed rounds.")
    loader.add_argument(
        "--workers",
        type=int | None,
        default=None,
        help="Worker processes of the measurement on all cores; 0: without it; default: one per core.",
    )
    loader.add_argument("--batch-size", type=int, default=32, help="Batch size of the workers.")
    loader.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    loader.add_argument(
        "--picture",
        type=str | None,
        default=None,
        help="Draw our views beside torchvision's for eight images to this file, and histograms of the random "
        "parameters beside it.",
    )
    return loader


def with_default_data(argv: list[str]) -> list[str]:
    """Add the data module of image folders to a command line with ``--data.x=y`` and without ``--data``."""
    overridden = any(arg.startswith("--data.") for arg in argv)
    given = any(arg == "--data" or arg.startswith("--data=") for arg in argv)
    if argv[:1] != ["loader"] or given or not overridden:
        return argv
    return ["loader", f"--data={json.dumps(FOLDER)}", *argv[1:]]


def run(args: Namespace) -> int:
    """Run the benchmark, print a table, and write JSON and figures."""
    with _data(args) as data:
        results = bench_loader(
            data,
            args.image_size,
            images=args.images,
            repeats=args.repeats,
            workers=args.workers,
            batch_size=args.batch_size,
        )
        _show(results, args)
        if args.json is not None:
            write_json(args.json, results)
        if args.picture is not None:
            _draw(data, args.image_size, expand(args.picture))
    return 0


@contextmanager
def _data(args: Namespace) -> Iterator[FineGrainedDataModule]:
    """The data module of the arguments; made-up images are deleted afterwards."""
    data = args.get("data")
    if (data is None) == (args.make is None):
        raise UserError("Give images by `--data.root DIR` or `--data RECIPE`, or `--make 500x375`.")
    if data is not None:
        yield data
        return
    size = parse_size(args.make)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "train", max(args.images, args.batch_size), size)
        yield FolderDataModule(folder)


def _draw(data: FineGrainedDataModule, image_size: int, path: Path) -> None:
    histograms = path.with_name(f"{path.stem}-parameters{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_views(data, image_size).savefig(path, dpi=120)
        draw_parameters(data, image_size).savefig(histograms, dpi=120)


def _show(results: dict[str, Any], args: Namespace) -> None:
    rows = [
        [
            name,
            *(f"{rate[kind]:.1f}" for kind in ("median", "min", "max")),
            f"{results['ratios'].get(f'{name}/torchvision', 1.0):.2f}",
        ]
        for name, rate in results["images_per_second"].items()
    ]
    all_cores = results["all_cores"]
    if all_cores is not None:
        rate = all_cores["images_per_second"]
        name = f"ppssl, workers: {all_cores['workers']}"
        rows.append([name, *(f"{rate[kind]:.1f}" for kind in ("median", "min", "max")), ""])
    width, height = results["original_size"]
    title = (
        f"Images/s, two views of {args.image_size} pixels from {width:.0f} x {height:.0f}, one core"
    )
    columns = ["pipeline", "median", "min", "max", "/ torchvision"]
    show_table(title, columns, rows, caption=args.json or "all results: --json FILE")
