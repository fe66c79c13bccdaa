"""``ppssl ablate``: a grid of overrides times seeds over a recipe."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ppssl.cli.arguments import split_overrides
from ppssl.evaluation.classifier import ACCURACIES
from ppssl.evaluation.evaluate import HEADLINES
from ppssl.studies.ablate import ablate, load_study
from ppssl.studies.compare import BRANCH, markdown_table, summarise
from ppssl.utils.results import show_table

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Parse, run, write its table as Markdown under the study's name, print it."""
    parser = ArgumentParser(
        prog="ppssl ablate",
        description="Run variants times seeds over a recipe; runs whose JSON exists are not repeated. "
        "Overrides on the command line (--data.root=DIR) are this machine's and do not tell runs apart. "
        "Example: ppssl ablate experiments/ablation/stable_synthetic.yaml --out experiments/results/synthetic",
        exit_on_error=False,
    )
    parser.add_argument(
        "study", type=str, help="YAML: recipe, variants, seeds, overrides, grid, baseline."
    )
    parser.add_argument(
        "--out", type=str, required=True, help="Folder of the JSON files and the table."
    )
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time; they share the cores.")
    parser.add_argument(
        "--work", type=str | None, default=None, help="Folder of checkpoints and logs."
    )
    local, rest = split_overrides(argv)
    args = parser.parse_args(rest)
    study = load_study(args.study)
    results = ablate(study, args.out, jobs=args.jobs, work=args.work, local=local)
    shown = (*HEADLINES, "nuisance", *(BRANCH + name for name in HEADLINES), *ACCURACIES)
    known = [name for name in shown if any(name in r["metrics"] for r in results)]
    summary = summarise(results, baseline=study.baseline, metrics=known)
    table = markdown_table(summary, known)
    (Path(args.out) / f"{Path(args.study).stem}.md").write_text(table)
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    show_table(f"{args.study}, percent", rows[0], rows[2:])
    return 0
