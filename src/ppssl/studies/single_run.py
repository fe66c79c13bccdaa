"""One run of an ablation, in a process of its own: train a recipe, evaluate it, write JSON."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ppssl.classify.base import Classifier
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.encoder import evaluation_mode
from ppssl.evaluation.classifier import evaluate_classifier
from ppssl.evaluation.evaluate import HEADLINES, evaluate
from ppssl.inference.embed import fingerprint
from ppssl.inference.embeddings import has_branch_feature
from ppssl.losses.iadm.callback import measure_health
from ppssl.losses.iadm.plugin import IADM
from ppssl.studies.ablate import GIVEN
from ppssl.studies.compare import BRANCH
from ppssl.studies.recipes import PPSSLCLI, build_recipe
from ppssl.utils.results import Results, without_local, write_json

__all__ = ["main", "run_cell"]

PROBES = 256
"""Training images whose maps are measured."""
HEALTH_UNITS = {"kl_uniform": "nats", "correlation": "correlation"}
QUIET = (
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
)


def run_cell(cell: Mapping[str, Any], path: str, local: Sequence[str] = ()) -> None:
    """Train, measure, write: an encoder by :func:`evaluate`, a classifier by :func:`evaluate_classifier`.

    Of a classifier's encoder ``start`` tells the fingerprint of the first weights, whichever file they came from.
    Of a model with IADM there are also the embeddings pooled with its A (METHOD D13), as ``branch-<metric>``, and the
    health of its maps, as ``health-<metric>``.

    Args:
        cell: ``recipe``, ``overrides`` (dotted names and values), ``seed`` and what identifies the cell.
        path: The JSON to write.
        local: Overrides of this machine; their values are not written down
        (:func:`~ppssl.utils.results.without_local`).
    """
    stated = {name: value for name, value in cell["overrides"].items() if value != GIVEN}
    overrides = [f"--{name}={_text(value)}" for name, value in stated.items()]
    built = build_recipe(
        cell["recipe"], [*QUIET, *overrides, f"--seed_everything={cell['seed']}", *local]
    )
    results = _train_and_measure(built)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    if has_branch_feature(built.model):
        _add_branch(results, evaluate(built.model, built.datamodule, feature="branch"))
    _add_health(results, built.model, built.datamodule)
    results["config"] = without_local(results["config"], local)
    cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss_kib": usage.ru_maxrss}
    write_json(path, results | {"seed": cell["seed"], "cell": cell, "cost": cost})


def _train_and_measure(built: PPSSLCLI) -> dict[str, Any]:
    model: Any = built.model
    if not isinstance(model, Classifier):
        built.trainer.fit(model, built.datamodule)
        return evaluate(model, built.datamodule).to_dict()
    start = fingerprint(model.encoder.model)
    built.trainer.fit(model, built.datamodule)
    return evaluate_classifier(model, built.datamodule).to_dict() | {"start": start}


def _add_branch(results: dict[str, Any], found: Results) -> None:
    for part in ("metrics", "units", "intervals", "per_image"):
        of = getattr(found, part)
        results[part] |= {BRANCH + name: of[name] for name in HEADLINES if name in of}


def _add_health(results: dict[str, Any], model: Any, data: FineGrainedDataModule) -> None:
    """Of the first IADM, on un-augmented training images (:func:`ppssl.losses.iadm.health.saliency_health`)."""
    plugins = dict(getattr(model, "plugins", {})).values()
    iadm = next((plugin for plugin in plugins if isinstance(plugin, IADM)), None)
    if iadm is None:
        return
    with evaluation_mode(model):
        health = measure_health(model, iadm, data, PROBES)
    results["metrics"] |= {f"health-{name}": value for name, value in health.items()}
    results["units"] |= {f"health-{name}": HEALTH_UNITS.get(name, "fraction") for name in health}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """``python -m ppssl.studies.single_run CELL_JSON PATH [LOCAL OVERRIDES]``."""
    run_cell(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    main()
