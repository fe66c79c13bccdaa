"""One run of an ablation study, as a separate process: train a recipe, evaluate the model, write JSON."""

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
from ppssl.studies.compare import BRANCH
from ppssl.studies.error_messages import describe_error
from ppssl.studies.lightning_cli import PPSSLCLI, build_recipe
from ppssl.studies.study import command_line
from ppssl.utils.results import Results, without_local, write_json

__all__ = ["execute_run", "main"]

HEALTH_IMAGES = 256
"""Number of training images on which the health of saliency maps is measured."""
HEALTH_UNITS = {"kl_uniform": "nats", "correlation": "correlation"}
QUIET = (
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
)
"""Trainer settings of a run: no logging, progress bar or validation."""


def execute_run(run: Mapping[str, Any], path: str, local: Sequence[str] = ()) -> None:
    """Train the model of a run, evaluate it, and write the results.

    An encoder is evaluated by :func:`~ppssl.evaluation.evaluate.evaluate`, a classifier by
    :func:`~ppssl.evaluation.classifier.evaluate_classifier`. For a classifier the results also hold ``start``, the
    fingerprint of the encoder's initial weights. For a model with IADM they also hold the metrics of the feature
    ``branch`` (:ref:`D13 <d13>`), as ``branch-<metric>``, and the health of its maps, as ``health-<metric>``.

    Args:
        run: A run of :meth:`ppssl.studies.study.Study.runs`; it is stored in the results as ``cell``.
        path: The JSON file to write.
        local: Overrides of this machine; their values are left out of the results
            (:func:`~ppssl.utils.results.without_local`).
    """
    built = build_recipe(run["recipe"], [*QUIET, *command_line(run, local)])
    results = _train_and_evaluate(built)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    if has_branch_feature(built.model):
        branch_results = evaluate(built.model, built.datamodule, feature="branch")
        _add_branch_metrics(results, branch_results)
    _add_health_metrics(results, built.model, built.datamodule)
    results["config"] = without_local(results["config"], local)
    cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss_kib": usage.ru_maxrss}
    write_json(path, results | {"seed": run["seed"], "cell": run, "cost": cost})


def _train_and_evaluate(built: PPSSLCLI) -> dict[str, Any]:
    model: Any = built.model
    if not isinstance(model, Classifier):
        built.trainer.fit(model, built.datamodule)
        return evaluate(model, built.datamodule).to_dict()
    start = fingerprint(model.encoder.model)
    built.trainer.fit(model, built.datamodule)
    return evaluate_classifier(model, built.datamodule).to_dict() | {"start": start}


def _add_branch_metrics(results: dict[str, Any], branch: Results) -> None:
    """Add the headline metrics of the feature ``branch`` under the names ``branch-<metric>``."""
    for part in ("metrics", "units", "intervals", "per_image"):
        values = getattr(branch, part)
        results[part] |= {BRANCH + name: values[name] for name in HEADLINES if name in values}


def _add_health_metrics(results: dict[str, Any], model: Any, data: FineGrainedDataModule) -> None:
    """Add the health of the first IADM's maps on training images (:mod:`ppssl.losses.iadm.health`)."""
    plugins = dict(getattr(model, "plugins", {})).values()
    iadm = next((plugin for plugin in plugins if isinstance(plugin, IADM)), None)
    if iadm is None:
        return
    with evaluation_mode(model):
        health = measure_health(model, iadm, data, HEALTH_IMAGES)
    for name, value in health.items():
        results["metrics"][f"health-{name}"] = value
        results["units"][f"health-{name}"] = HEALTH_UNITS.get(name, "fraction")


def main() -> None:
    """Run ``python -m ppssl.studies.single_run RUN_JSON PATH [LOCAL OVERRIDES]``."""
    try:
        execute_run(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except Exception as error:
        _, message = describe_error(error)
        if message is None:
            raise
        raise SystemExit(message) from error


if __name__ == "__main__":
    main()
