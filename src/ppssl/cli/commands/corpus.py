"""``ppssl corpus inspect`` and ``ppssl corpus generate``: inspect a text corpus, or generate one."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ppssl.cli.arguments import add_device, check_separate
from ppssl.text.corpus import TextCorpus
from ppssl.text.corpus_generation import generate_corpus
from ppssl.text.corpus_inspection import CorpusReport, check_output, draw_picks, inspect_corpus
from ppssl.text.delimited import text_lines
from ppssl.utils.errors import UserError
from ppssl.utils.paths import expand, writable_file
from ppssl.utils.results import show_table, write_json

__all__ = ["main"]

_MAX_PAIRS, _MAX_EXAMPLES = 10, 3


def main(argv: list[str]) -> int:
    """Run ``inspect`` or ``generate``."""
    parser = ArgumentParser(
        prog="ppssl corpus",
        description="Text corpora for AIS. Example: ppssl corpus inspect birds",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("inspect", _inspect_parser(), help="Inspect a corpus.")
    commands.add_subcommand(
        "generate", _generate_parser(), help="Generate a corpus with a language model."
    )
    args = parser.parse_args(argv)
    return _inspect(args.inspect) if args.subcommand == "inspect" else _generate(args.generate)


def _inspect_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Show size, near-duplicates and text lengths of a corpus; with a teacher also token counts, and "
        "with images the descriptions that the teacher picks. Example: ppssl corpus inspect birds "
        "--teacher path/to/clip --images path/to/images --out picks.png",
        exit_on_error=False,
    )
    parser.add_argument(
        "corpus",
        type=str,
        help="A .txt, .csv, .tsv or .jsonl file, or a corpus name, as in `ais.corpus`.",
    )
    parser.add_argument(
        "--column", type=str | None, default=None, help="Column of a .csv, .tsv or .jsonl file."
    )
    parser.add_argument(
        "--root",
        type=str | None,
        default=None,
        help="The data set's folder, for cub-attributes and aircraft-hierarchy.",
    )
    parser.add_argument(
        "--classes",
        type=str | None,
        default=None,
        help="A file with one class name per line, for class-names and cars-names.",
    )
    _add_teacher_arguments(parser)
    parser.add_argument(
        "--threshold", type=float, default=0.95, help="Similarity of near-duplicates, in [0, 1)."
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    return parser


def _add_teacher_arguments(parser: ArgumentParser) -> None:
    """Add the options of what a teacher picks for images."""
    parser.add_argument(
        "--teacher",
        type=str | None,
        default=None,
        help="Teacher: a folder or hub id of a CLIP or SigLIP, or synthetic-clip.",
    )
    parser.add_argument(
        "--images",
        type=str,
        nargs="+",
        default=[],
        help="Image files, or folders, of each of which `--num-images` images are used.",
    )
    parser.add_argument("--num-images", type=int, default=8, help="Number of images per folder.")
    parser.add_argument("--top", type=int, default=5, help="Number of descriptions per image.")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Draw the images and their descriptions to this file.",
    )


def _generate_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Generate a corpus with a local language model, which describes the visible parts of each class. "
        "The same command continues after an interruption. Example: ppssl corpus generate --model path/to/model "
        "--classes names.txt --per-class 8 --kind bird --out birds.jsonl",
        exit_on_error=False,
    )
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="A folder or hub id of a causal language model of transformers, preferably instruction-tuned.",
    )
    parser.add_argument(
        "--classes", type=str, required=True, help="A file with one class name per line."
    )
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        help="The .jsonl file to write; finished classes in it are kept.",
    )
    parser.add_argument("--per-class", type=int, default=8, help="Sentences per class.")
    parser.add_argument(
        "--kind",
        type=str,
        default="object",
        help="Noun of the classes for the prompt, such as bird or car.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sampling.")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="Temperature of the sampling, > 0."
    )
    add_device(parser)
    return parser


def _generate(args: Namespace) -> int:
    sentences = generate_corpus(
        args.model,
        _read_names(args.classes),
        args.out,
        per_class=args.per_class,
        kind=args.kind,
        seed=args.seed,
        temperature=args.temperature,
        device=args.device,
    )
    total = sum(len(of_class) for of_class in sentences.values())
    counts = [["classes", str(len(sentences))], ["sentences", str(total)]]
    examples = [[name, of_class[0]] for name, of_class in list(sentences.items())[:_MAX_EXAMPLES]]
    show_table("Generated corpus", ["", ""], [*counts, *examples], caption=args.out)
    return 0


def _inspect(args: Namespace) -> int:
    if args.json is not None:
        writable_file(args.json)
    check_output(args.out, args.teacher, args.images)
    check_separate(args, ["json", "out"], ["corpus", "classes", "images"])
    classes = [] if args.classes is None else _read_names(args.classes)
    if args.corpus in ("class-names", "cars-names") and not classes:
        raise UserError(f"`{args.corpus}` is made from class names: give `--classes names.txt`.")
    report = inspect_corpus(
        TextCorpus.load(args.corpus, args.column, classes, args.root),
        teacher=args.teacher,
        images=args.images,
        num_images=args.num_images,
        top=args.top,
        threshold=args.threshold,
    )
    _show(args, report)
    if args.json is not None:
        write_json(args.json, report.to_dict())
    if args.out is not None:
        draw_picks(report.picks, args.teacher, args.out)
    return 0


def _show(args: Namespace, report: CorpusReport) -> None:
    rows = [
        ["descriptions", str(report.descriptions)],
        ["phrasings", str(report.phrasings)],
        ["removed duplicates", str(report.duplicates)],
        [f"pairs with similarity > {args.threshold:g}", str(len(report.near_duplicates))],
    ]
    for unit, spread in report.lengths.items():
        numbers = ", ".join(f"{spread[name]:.0f}" for name in ("min", "median", "p95", "max"))
        rows.append([f"{unit}: min, median, 95 %, max", numbers])
    if report.too_long is not None:
        rows.append(["longer than the teacher's limit", str(report.too_long)])
    show_table(
        args.corpus, ["statistic", "value"], rows, caption="" if args.out is None else args.out
    )
    if report.near_duplicates:
        pairs = [[first, second, f"{s:.3f}"] for s, first, second in report.near_duplicates]
        show_table(
            "Near-duplicates", ["description", "similar to", "similarity"], pairs[:_MAX_PAIRS]
        )
    picks = [
        [Path(name).name if rank == 0 else "", text, f"{probability:.1%}"]
        for name, ranking in report.picks
        for rank, (text, probability) in enumerate(ranking)
    ]
    if picks:
        show_table(f"Picked by {args.teacher}", ["image", "description", "probability"], picks)


def _read_names(path: str) -> list[str]:
    """Read class names, one per line; empty lines are skipped.

    Raises:
        UserError: The file cannot be read or is not UTF-8, or it has no names or duplicates.
    """
    try:
        lines = text_lines(expand(path).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the class names in {path}: {error}.") from error
    names = [line.strip() for line in lines if line.strip()]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise UserError(f"{path} lists {duplicates[0]!r} twice: give each class name once.")
    if not names:
        raise UserError(f"{path} has no class names: give one per line.")
    return names
