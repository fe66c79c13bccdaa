"""Comparison of the variants of an ablation study: means over seeds, and paired differences with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppssl.evaluation.bootstrap import LEVELS, resamples
from ppssl.utils.errors import UserError
from ppssl.utils.results import unpack_bits

__all__ = [
    "BRANCH",
    "Difference",
    "group",
    "markdown_table",
    "paired_difference",
    "summarise",
    "table_rows",
]

BRANCH = "branch-"
"""Prefix of the metrics of the feature ``branch``; a baseline without that feature is compared by its plain metrics."""


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between a variant and the baseline: mean over common seeds, with its 95 % interval.

    Attributes:
        mean: The mean difference.
        interval: Low and high end of the interval; ``None`` for one seed of a metric without a value per image.
        seeds: Number of common seeds.
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: int


def group(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Group results by variant and seed, in the given order."""
    grouped: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        grouped.setdefault(result["cell"]["variant"], {})[result["cell"]["seed"]] = result
    return grouped


def paired_difference(
    variant: Mapping[int, Mapping[str, Any]], baseline: Mapping[int, Mapping[str, Any]], metric: str
) -> Difference | None:
    """Compute the paired difference of two variants by a bootstrap over seeds and, if possible, over test images.

    Seeds and images are resampled independently with replacement, and both variants are evaluated on the same
    resample, so effects that they share (a hard image, a lucky seed) cancel.

    Args:
        variant: Results of the variant by seed.
        baseline: Results of the baseline by seed.
        metric: Name of the metric.

    Returns:
        The difference; ``None`` without a common seed in which the baseline has the metric.
    """
    seeds = [
        seed
        for seed in sorted(variant.keys() & baseline.keys())
        if baseline[seed]["metrics"].get(_base_metric(metric, baseline[seed])) is not None
    ]
    if not seeds:
        return None
    rows = [_difference(variant[s], baseline[s], metric) for s in seeds]
    if len({len(row) for row in rows}) > 1:  # the seeds have different test images: compare means
        rows = [row.mean(keepdims=True) for row in rows]
    differences = np.stack(rows)  # (S, Q) or (S, 1)
    if differences.size == 1:
        return Difference(float(differences.mean()), None, 1)
    means = [
        (differences[drawn].mean(axis=0) * weights).sum() / weights.sum()
        for drawn, weights in resamples(*differences.shape)
    ]
    low, high = np.quantile(means, LEVELS).tolist()
    return Difference(float(differences.mean()), (low, high), len(seeds))


def _base_metric(metric: str, baseline: Mapping[str, Any]) -> str:
    """Name of the baseline's metric that a metric is compared with."""
    return metric if metric in baseline["metrics"] else metric.removeprefix(BRANCH)


def _difference(variant: Mapping[str, Any], baseline: Mapping[str, Any], metric: str) -> np.ndarray:
    """Differences of one seed: per image, ``(Q,)``, or of the means, ``(1,)``."""
    base_metric = _base_metric(metric, baseline)
    if metric in variant["per_image"] and base_metric in baseline["per_image"]:
        hits = unpack_bits(variant["per_image"][metric])
        base_hits = unpack_bits(baseline["per_image"][base_metric])
        if len(hits) == len(base_hits):
            return hits.astype(float) - base_hits.astype(float)
    return np.array([variant["metrics"][metric] - baseline["metrics"][base_metric]])


def summarise(
    results: Sequence[Mapping[str, Any]], *, baseline: str | None = None, metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Summarise results by variant and metric.

    Args:
        results: Contents of the runs' JSON files.
        baseline: The variant that the others are compared with; ``None``: the first.
        metrics: Names of the metrics; those that a run of a variant lacks, or that are not defined in it, are left out
            for that variant.

    Returns:
        By variant and metric: ``mean``, ``std`` (over seeds, ddof 1; ``None`` for one seed), ``seeds``, and for all
        variants but the baseline the ``difference`` (:func:`paired_difference`).

    Raises:
        UserError: There is no variant of the baseline's name.
    """
    grouped = group(results)
    if baseline is not None and baseline not in grouped:
        raise UserError(
            f"`baseline` {baseline} is not a variant of the study: choose one of {'; '.join(grouped)}."
        )
    base = next(iter(grouped), "") if baseline is None else baseline
    summary: dict[str, dict[str, Any]] = {}
    for name, runs in grouped.items():
        summary[name] = {}
        for metric in metrics:
            if any(run["metrics"].get(metric) is None for run in runs.values()):
                continue
            values = np.array([run["metrics"][metric] for run in runs.values()])
            entry: dict[str, Any] = {"mean": values.mean(), "seeds": len(values)}
            entry["std"] = values.std(ddof=1) if len(values) > 1 else None
            if name != base:
                entry["difference"] = paired_difference(runs, grouped[base], metric)
            summary[name][metric] = entry
    return summary


def table_rows(summary: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[list[str]]:
    """Names of columns, then a row of each variant, in percent.

    A cell is ``mean ± standard deviation (difference to the baseline [interval])``, where they are defined.
    """
    rows = [["variant", "seeds", *metrics]]
    for name, row in summary.items():
        seeds = max((entry["seeds"] for entry in row.values()), default=0)
        cells = [_text(row[metric]) if metric in row else "-" for metric in metrics]
        rows.append([name, str(seeds), *cells])
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Write names of columns and rows as a Markdown table, with numbers from the second column on."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    rule = "---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join([f"| {lines[0]} |", f"|{rule}", *(f"| {line} |" for line in lines[1:])]) + "\n"


def _text(entry: Mapping[str, Any]) -> str:
    text = f"{100 * entry['mean']:.1f}"
    if entry["std"] is not None:
        text += f" ± {100 * entry['std']:.1f}"
    difference = entry.get("difference")
    if difference is not None:
        ends = [f"{100 * end:+.1f}" for end in difference.interval or ()]
        interval = f" [{', '.join(ends)}]" if ends else ""
        text += f" ({100 * difference.mean:+.1f}{interval})"
    return text
