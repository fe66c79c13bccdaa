"""``ppssl ablate``: run the variants and seeds of a study, and compare them."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ppssl.cli.arguments import split_overrides
from ppssl.evaluation.classifier import ACCURACIES
from ppssl.evaluation.evaluate import HEADLINES
from ppssl.studies.ablate import ablate
from ppssl.studies.compare import BRANCH, markdown_table, summarise, table_rows
from ppssl.studies.study import load_study
from ppssl.utils.paths import writable_file, writing
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run a study, write its table as Markdown and print it."""
    parser = ArgumentParser(
        prog="ppssl ablate",
        description="Run all variants and seeds of a study; runs whose JSON file exists are not repeated. "
        "Overrides on the command line (--data.root=DIR) are local to this machine and do not identify a run. "
        "docs/how-to/study.md describes the file. "
        "Example: ppssl ablate experiments/ablation/stable_synthetic.yaml --out experiments/results/synthetic",
        exit_on_error=False,
    )
    parser.add_argument(
        "study",
        type=str,
        help="YAML file with recipe, variants, seeds, overrides, grid and baseline.",
    )
    parser.add_argument(
        "--out", type=str, required=True, help="Folder for the JSON files and the table."
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="Number of parallel runs, which share the CPU cores."
    )
    parser.add_argument(
        "--work", type=str | None, default=None, help="Folder for checkpoints and logs."
    )
    local_overrides, rest = split_overrides(argv)
    args = parser.parse_args(rest)
    study = load_study(args.study)
    table_file = writable_file(Path(args.out, f"{Path(args.study).stem}.md"))
    results = ablate(study, args.out, jobs=args.jobs, work=args.work, local=local_overrides)
    branch_metrics = [BRANCH + name for name in HEADLINES]
    candidates = [*HEADLINES, "nuisance", *branch_metrics, *ACCURACIES]
    metrics = [name for name in candidates if any(name in r["metrics"] for r in results)]
    summary = summarise(results, baseline=study.baseline, metrics=metrics)
    rows = table_rows(summary, metrics)
    in_two_lines = [[cell.replace(" (", "\n(") for cell in row] for row in rows]
    show_table(f"{args.study}, percent", in_two_lines[0], in_two_lines[1:], caption=str(table_file))
    with writing(table_file):
        table_file.write_text(markdown_table(rows))
    return 0
