"""One run of an ablation, in a process of its own: train a recipe, evaluate it, write JSON."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ppssl.downstream.accuracy import measure_classifier
from ppssl.downstream.classifier import Classifier
from ppssl.downstream.evaluate import evaluate
from ppssl.downstream.store import fingerprint
from ppssl.measure.ablate import GIVEN
from ppssl.recipes import PPSSLCLI, build_recipe
from ppssl.results import write_json

__all__ = ["main", "run_cell", "without_local"]

QUIET = (
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
)


def run_cell(cell: Mapping[str, Any], path: str, local: Sequence[str] = ()) -> None:
    """Train, measure, write: an encoder by :func:`evaluate`, a classifier by :func:`measure_classifier`.

    Of a classifier's encoder ``start`` tells the fingerprint of the first weights, whichever file they came from.

    Args:
        cell: ``recipe``, ``overrides`` (dotted names and values), ``seed`` and what identifies the cell.
        path: The JSON to write.
        local: Overrides of this machine; their values are not written down (:func:`without_local`).
    """
    stated = {name: value for name, value in cell["overrides"].items() if value != GIVEN}
    overrides = [f"--{name}={_text(value)}" for name, value in stated.items()]
    built = build_recipe(
        cell["recipe"], [*QUIET, *overrides, f"--seed_everything={cell['seed']}", *local]
    )
    results = _train_and_measure(built)
    results["config"] = without_local(results["config"], local)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss_kib": usage.ru_maxrss}
    write_json(path, results | {"seed": cell["seed"], "cell": cell, "cost": cost})


def _train_and_measure(built: PPSSLCLI) -> dict[str, Any]:
    model: Any = built.model
    if not isinstance(model, Classifier):
        built.trainer.fit(model, built.datamodule)
        return evaluate(model, built.datamodule).to_dict()
    start = fingerprint(model.encoder.model)
    built.trainer.fit(model, built.datamodule)
    return measure_classifier(model, built.datamodule).to_dict() | {"start": start}


def without_local(config: Mapping[str, Any], local: Sequence[str]) -> dict[str, Any]:
    """A result's configuration, where what this machine alone has set (``--data.root=...``) is left open: ``None``."""
    dropped = {override.removeprefix("--").partition("=")[0] for override in local}

    def walk(value: Any, name: str) -> Any:
        if name in dropped:
            return None
        if not isinstance(value, Mapping):
            return value
        return {
            key: walk(item, name if key == "init_args" else f"{name}.{key}".lstrip("."))
            for key, item in value.items()
        }

    return walk(config, "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """``python -m ppssl.measure.cell CELL_JSON PATH [LOCAL OVERRIDES]``."""
    run_cell(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    main()
