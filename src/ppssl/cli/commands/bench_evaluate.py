"""``ppssl bench evaluate``: time an evaluation."""

from jsonargparse import ArgumentParser, Namespace

from ppssl.cli.arguments import add_device
from ppssl.studies.bench_evaluate import EmbeddingSizes, bench_evaluate
from ppssl.utils.results import show_table, write_json

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Argument parser of the command."""
    evaluate = ArgumentParser(
        description="Seconds of linear probe, kNN and retrieval on random embeddings, by default of CUB's size, beside "
        "the probe by scikit-learn. Example: ppssl bench evaluate --json evaluate.json",
        exit_on_error=False,
    )
    sizes = EmbeddingSizes()
    evaluate.add_argument("--train", type=int, default=sizes.train, help="Training images.")
    evaluate.add_argument("--test", type=int, default=sizes.test, help="Test images.")
    evaluate.add_argument("--classes", type=int, default=sizes.classes, help="Classes.")
    evaluate.add_argument("--dim", type=int, default=sizes.dim, help="Length of an embedding.")
    evaluate.add_argument("--repeats", type=int, default=1, help="Number of timed rounds.")
    evaluate.add_argument(
        "--scikit-learn",
        type=bool,
        default=True,
        help="Time the probe by scikit-learn too, which takes minutes at CUB's size.",
    )
    add_device(evaluate)
    evaluate.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    return evaluate


def run(args: Namespace) -> int:
    """Run the benchmark, print a table and write JSON."""
    results = bench_evaluate(
        EmbeddingSizes(args.train, args.test, args.classes, args.dim),
        repeats=args.repeats,
        device=args.device,
        scikit_learn=args.scikit_learn,
    )
    rows = [
        [
            name,
            *(f"{seconds[kind]:.2f}" for kind in ("median", "min", "max")),
            f"{100 * results['scores'][name]:.1f} % {'mAP' if name == 'retrieval' else 'top-1'}",
        ]
        for name, seconds in results["seconds"].items()
    ]
    title = (
        f"{args.train} training and {args.test} test images x {args.dim}, {args.classes} classes"
    )
    columns = ["task", "median s", "min", "max", "score"]
    caption = f"{results['arguments']['device']}; {args.json or 'all results: --json FILE'}"
    show_table(title, columns, rows, caption=caption)
    if args.json is not None:
        write_json(args.json, results)
    return 0
