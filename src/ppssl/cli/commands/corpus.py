"""``ppssl corpus inspect`` and ``ppssl corpus generate``: look a text corpus over, or have one written."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ppssl.text.corpus import TextCorpus
from ppssl.text.corpus_generation import generate_corpus
from ppssl.text.corpus_inspection import CorpusReport, inspect_corpus
from ppssl.utils.errors import UserError
from ppssl.utils.results import show_table, write_json

__all__ = ["main"]

_PAIRS, _EXAMPLES = 10, 3


def main(argv: list[str]) -> int:
    """Parse, route, print."""
    parser = ArgumentParser(
        prog="ppssl corpus",
        description="Text corpora for AIS. Example: ppssl corpus inspect birds",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("inspect", _inspect_parser(), help="Look a corpus over.")
    commands.add_subcommand("generate", _generate_parser(), help="Have a corpus written.")
    args = parser.parse_args(argv)
    return _inspect(args.inspect) if args.subcommand == "inspect" else _generate(args.generate)


def _inspect_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Size, near-duplicates and lengths of a corpus; with a teacher its tokens, and with images which "
        "descriptions the teacher picks for them. Example: ppssl corpus inspect birds --teacher path/to/clip "
        "--images path/to/images --out picks.png",
        exit_on_error=False,
    )
    parser.add_argument(
        "corpus", type=str, help="A .txt, .csv or .jsonl file, or a name, as in `ais.corpus`."
    )
    parser.add_argument("--column", type=str | None, default=None, help="Of a .csv or .jsonl.")
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
        help="A file with a class name a line, for class-names and cars-names.",
    )
    parser.add_argument(
        "--teacher",
        type=str | None,
        default=None,
        help="A CLIP or SigLIP: a local folder or a hub id; or synthetic-clip.",
    )
    parser.add_argument(
        "--images",
        type=str,
        nargs="+",
        default=[],
        help="Image files, or folders, of each of which `--num-images` are taken.",
    )
    parser.add_argument("--num-images", type=int, default=8, help="How many of a folder.")
    parser.add_argument("--top", type=int, default=5, help="How many descriptions an image.")
    parser.add_argument(
        "--threshold", type=float, default=0.95, help="Similarity of near-duplicates, in [0, 1)."
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="Draw images and descriptions to this file."
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write the results to this file."
    )
    return parser


def _generate_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Have a local language model describe the visible parts of each class, without its name. The same "
        "command goes on after an interruption. Example: ppssl corpus generate --model path/to/model "
        "--classes names.txt --per-class 8 --kind bird --out birds.jsonl",
        exit_on_error=False,
    )
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="A causal language model of transformers, best one that is tuned to follow instructions: a local folder "
        "or a hub id.",
    )
    parser.add_argument(
        "--classes", type=str, required=True, help="A file with a class name a line."
    )
    parser.add_argument(
        "--out", type=str, required=True, help="The .jsonl to write; what it holds is kept."
    )
    parser.add_argument("--per-class", type=int, default=8, help="Sentences a class.")
    parser.add_argument(
        "--kind", type=str, default="object", help="What the classes are kinds of: bird, car, ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the sampling.")
    parser.add_argument("--temperature", type=float, default=0.8, help="Of the sampling, > 0.")
    parser.add_argument(
        "--device", type=str, default="auto", help="`cpu`, `cuda`, ...; default: a GPU if any."
    )
    return parser


def _generate(args: Namespace) -> int:
    found = generate_corpus(
        args.model,
        _read_names(args.classes),
        args.out,
        per_class=args.per_class,
        kind=args.kind,
        seed=args.seed,
        temperature=args.temperature,
        device=args.device,
    )
    counts = [["classes", str(len(found))], ["sentences", str(sum(map(len, found.values())))]]
    examples = [[name, sentences[0]] for name, sentences in list(found.items())[:_EXAMPLES]]
    show_table("Written", ["of the corpus", ""], [*counts, *examples], caption=args.out)
    return 0


def _inspect(args: Namespace) -> int:
    classes = [] if args.classes is None else _read_names(args.classes)
    if args.corpus in ("class-names", "cars-names") and not classes:
        raise UserError(f"`{args.corpus}` is made from class names: give `--classes names.txt`.")
    report = inspect_corpus(
        TextCorpus.load(args.corpus, args.column, classes, args.root),
        teacher=args.teacher,
        images=args.images,
        out=args.out,
        num_images=args.num_images,
        top=args.top,
        threshold=args.threshold,
    )
    if args.json is not None:
        write_json(args.json, report.to_dict())
    _show(args, report)
    return 0


def _show(args: Namespace, report: CorpusReport) -> None:
    rows = [
        ["descriptions", str(report.descriptions)],
        ["phrasings", str(report.phrasings)],
        ["left out as duplicates", str(report.duplicates)],
        [f"pairs more alike than {args.threshold:g}", str(len(report.near_duplicates))],
    ]
    for unit, spread in report.lengths.items():
        numbers = ", ".join(f"{spread[name]:.0f}" for name in ("min", "median", "p95", "max"))
        rows.append([f"{unit}: least, median, 95 %, most", numbers])
    if report.too_long is not None:
        rows.append(["longer than the teacher reads", str(report.too_long)])
    show_table(
        args.corpus, ["of the corpus", ""], rows, caption="" if args.out is None else args.out
    )
    if report.near_duplicates:
        pairs = [[first, second, f"{s:.3f}"] for s, first, second in report.near_duplicates]
        show_table("Near-duplicates", ["description", "like", "similarity"], pairs[:_PAIRS])
    best = [
        [Path(name).name if rank == 0 else "", text, f"{probability:.1%}"]
        for name, ranking in report.picks
        for rank, (text, probability) in enumerate(ranking)
    ]
    if best:
        show_table(f"Picked by {args.teacher}", ["image", "description", "probability"], best)


def _read_names(path: str) -> list[str]:
    """Class names, a line each, empty lines left out.

    Raises:
        UserError: The file cannot be read, is not UTF-8, or holds no name or one twice.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the class names in {path}: {error}.") from error
    names = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        what = f"{twice[0]!r} twice" if twice else "no class name"
        raise UserError(f"{path} holds {what}: a class a line, each once.")
    return names
