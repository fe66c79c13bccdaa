"""One run of an ablation, in a process of its own: train a recipe, evaluate it, write JSON."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ppssl.downstream.evaluate import evaluate
from ppssl.downstream.features import attends
from ppssl.recipes import build_recipe
from ppssl.results import Results, without_local, write_json

__all__ = ["main", "run_cell"]

BRANCH = ("knn-1", "knn-5", "knn-20", "linear", "rank-1", "mAP")
"""What is measured of the embeddings pooled with A."""
QUIET = (
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
)


def run_cell(cell: Mapping[str, Any], path: str, local: Sequence[str] = ()) -> None:
    """Train, evaluate, write; of a model with IADM the embeddings pooled with its A too, as ``branch-<metric>``.

    Args:
        cell: ``recipe``, ``overrides`` (dotted names and values), ``seed`` and what identifies the cell.
        path: The JSON to write.
        local: Overrides of this machine; their values are not written down (:func:`~ppssl.results.without_local`).
    """
    overrides = [f"--{name}={_text(value)}" for name, value in cell["overrides"].items()]
    built = build_recipe(
        cell["recipe"], [*QUIET, *overrides, f"--seed_everything={cell['seed']}", *local]
    )
    built.trainer.fit(built.model, built.datamodule)
    results = evaluate(built.model, built.datamodule).to_dict()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    if attends(built.model):
        _add_branch(results, evaluate(built.model, built.datamodule, feature="branch"))
    results["config"] = without_local(results["config"], local)
    cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss_kib": usage.ru_maxrss}
    write_json(path, results | {"seed": cell["seed"], "cell": cell, "cost": cost})


def _add_branch(results: dict[str, Any], found: Results) -> None:
    """Put the metrics of the embeddings pooled with IADM's A beside those of p (METHOD D13), as ``branch-<metric>``."""
    for part in ("metrics", "units", "intervals", "per_image"):
        of = getattr(found, part)
        results[part] |= {f"branch-{name}": of[name] for name in BRANCH if name in of}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """``python -m ppssl.measure.cell CELL_JSON PATH [LOCAL OVERRIDES]``."""
    run_cell(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    main()
