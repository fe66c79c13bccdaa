"""Tables of an ablation: mean and spread over seeds, and differences paired by seed and image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppssl.evaluation.bootstrap import LEVELS, resamples
from ppssl.utils.errors import UserError
from ppssl.utils.results import unpack_bits

__all__ = ["BRANCH", "Difference", "group", "markdown_table", "paired_difference", "summarise"]

BRANCH = "branch-"
"""Before the name of a metric: of the embeddings pooled with IADM's A; compared with p's where a run has no such."""


@dataclass(frozen=True)
class Difference:
    """A variant's metric minus the baseline's: the mean over common seeds, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int


def group(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Results by variant and seed, in their order."""
    grouped: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        grouped.setdefault(result["cell"]["variant"], {})[result["cell"]["seed"]] = result
    return grouped


def paired_difference(
    variant: Mapping[int, Mapping[str, Any]], baseline: Mapping[int, Mapping[str, Any]], metric: str
) -> Difference | None:
    """A bootstrap over seeds, and over images where the results hold them; ``None`` without a common seed.

    Seeds and images are resampled independently, each as often as there are, and both sides see the same ones: what is
    common to them (a hard image, a lucky seed) cancels.
    """
    seeds = sorted(variant.keys() & baseline.keys())
    if not seeds:
        return None
    rows = [_difference(variant[s], baseline[s], metric) for s in seeds]
    if len({len(row) for row in rows}) > 1:  # the seeds hold different images: compare their means
        rows = [row.mean(keepdims=True) for row in rows]
    differences = np.stack(rows)  # (S, Q) or (S, 1)
    means = [
        (differences[drawn].mean(axis=0) * weights).sum() / weights.sum()
        for drawn, weights in resamples(*differences.shape)
    ]
    low, high = np.quantile(means, LEVELS)
    return Difference(float(differences.mean()), float(low), float(high), len(seeds))


def _difference(left: Mapping[str, Any], right: Mapping[str, Any], metric: str) -> np.ndarray:
    other = metric if metric in right["metrics"] else metric.removeprefix(BRANCH)
    if metric in left["per_image"] and other in right["per_image"]:
        a, b = unpack_bits(left["per_image"][metric]), unpack_bits(right["per_image"][other])
        if len(a) == len(b):
            return a.astype(float) - b.astype(float)
    return np.array([left["metrics"][metric] - right["metrics"][other]])


def summarise(
    results: Sequence[Mapping[str, Any]], *, baseline: str | None = None, metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By variant and metric: ``mean``, ``std`` (over seeds, ddof 1), ``seeds``, and ``difference`` to the baseline.

    A metric that a variant's runs do not have is left out of its row.

    Raises:
        UserError: No such baseline.
    """
    grouped = group(results)
    if baseline is not None and baseline not in grouped:
        raise UserError(f"`baseline`: no variant {baseline}; there are {'; '.join(grouped)}.")
    base = next(iter(grouped), "") if baseline is None else baseline
    summary: dict[str, dict[str, Any]] = {}
    for name, runs in grouped.items():
        summary[name] = {}
        for metric in metrics:
            if any(metric not in run["metrics"] for run in runs.values()):
                continue
            values = np.array([run["metrics"][metric] for run in runs.values()])
            entry: dict[str, Any] = {"mean": values.mean(), "seeds": len(values)}
            entry["std"] = values.std(ddof=1) if len(values) > 1 else None
            if name != base:
                entry["difference"] = paired_difference(runs, grouped[base], metric)
            summary[name][metric] = entry
    return summary


def markdown_table(summary: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """Percent, ``mean ± standard deviation``, and under it the difference to the baseline with its interval."""
    lines = [
        "| variant | seeds | " + " | ".join(metrics) + " |",
        "|---|" + "---:|" * (len(metrics) + 1),
    ]
    for name, row in summary.items():
        seeds = next(iter(row.values()))["seeds"]
        lines.append(
            f"| {name} | {seeds} | "
            + " | ".join(_text(row[m]) if m in row else "-" for m in metrics)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _text(entry: Mapping[str, Any]) -> str:
    text = f"{100 * entry['mean']:.1f}"
    if entry["std"] is not None:
        text += f" ± {100 * entry['std']:.1f}"
    difference = entry.get("difference")
    if difference is not None:
        text += f" ({100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}])"
    return text
