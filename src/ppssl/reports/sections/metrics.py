"""Before and after: the metrics of ``ppssl evaluate`` with their intervals, and of two runs their difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppssl.callbacks.start_and_end import NAMES
from ppssl.evaluation.evaluate import HEADLINES
from ppssl.reports.measured import Measured
from ppssl.reports.run import start_and_end
from ppssl.reports.section import Section
from ppssl.studies.compare import paired_difference
from ppssl.utils.results import Results

__all__ = ["comparable", "section", "show"]

MEANINGS = {
    "knn-1": "the nearest training image has the right class",
    "knn-5": "the five nearest training images vote for the right class",
    "knn-10": "the ten nearest training images vote for the right class",
    "knn-20": "the twenty nearest training images vote for the right class",
    "linear": "logistic regression on the embeddings finds the right class",
    "rank-1": "the nearest other test image has the same class",
    "rank-5": "one of the five nearest other test images has the same class",
    "mAP": "how far ahead the images of the same class come, among all test images",
    "rankme": "dimensions that the embedding uses; not a quality by itself",
}
"""What each metric says, in one line."""


@dataclass(frozen=True)
class Value:
    """A value in the table.

    Attributes:
        text: The value with its unit.
        interval: Its 95 % interval; empty if there is none.
        dot: Value and interval as percentages, for the chart; ``None`` for other units.
    """

    text: str
    interval: str = ""
    dot: tuple[float, float, float] | None = None


def section(runs: Sequence[Measured]) -> Section:
    """Make the section: one table of all runs."""
    title = "Before and after" if len(runs) == 1 else "Before and after, side by side"
    columns = _columns(runs)
    monitored = [entry for m in runs if (entry := _monitored(m, several=len(runs) > 1))]
    if not columns and not monitored:
        reasons = dict.fromkeys(_of(m, runs) + m.no_labels for m in runs)
        return Section("metrics", title, {"": " ".join(reasons)})
    names = list(dict.fromkeys(name for results in columns.values() for name in results.metrics))
    rows = [_row(name, columns, runs) for name in names if not name.startswith("nuisance")]
    content = {
        "columns": list(columns),
        "rows": rows,
        "charted": [row for row in rows if row["name"] in HEADLINES],
        "nuisances": [_row(n, columns, runs) for n in names if n.startswith("nuisance")],
        "difference": _difference_title(runs) if columns else "",
        "monitored": monitored,
        "notes": _notes(runs),
    }
    return Section("metrics", title, {"": content})


def comparable(runs: Sequence[Measured]) -> bool:
    """Whether two runs were evaluated on the same queries, so that their results can be compared by image."""
    splits = [m.splits for m in runs]
    if len(splits) != 2 or splits[0] is None or splits[1] is None:
        return False
    first, second = (m.data.sources[s.query_split] for m, s in zip(runs, splits, strict=True) if s)
    same = first.fingerprint() == second.fingerprint() and first.classes == second.classes
    return same and splits[0].queries.index.tolist() == splits[1].queries.index.tolist()


def show(results: Results, name: str) -> Value:
    """A metric as the table shows it; a dash where it is not defined."""
    value = results.metrics.get(name, math.nan)
    if math.isnan(value):
        return Value("-")
    if results.units[name] != "fraction":
        return Value(f"{value:.1f}")
    low, high = results.intervals.get(name, (math.nan, math.nan))
    percent = (100 * value, 100 * low, 100 * high)
    if math.isnan(low):
        return Value(f"{percent[0]:.1f} %")
    interval = f"{percent[1]:.1f} to {percent[2]:.1f}"
    return Value(f"{percent[0]:.1f} %", interval, percent)


def _columns(runs: Sequence[Measured]) -> dict[str, Results]:
    columns = {}
    for measured in runs:
        prefix = f"{measured.run.name}, " if len(runs) > 1 else ""
        for title, results in (("before", measured.start), ("after", measured.results)):
            if results is not None:
                columns[prefix + title] = results
    return columns


def _compared(runs: Sequence[Measured]) -> tuple[Results, Results] | None:
    """The results whose difference is shown: after less before of one run, second less first of two."""
    if len(runs) == 1:
        pair = runs[0].start, runs[0].results
    else:
        pair = (runs[0].results, runs[1].results) if comparable(runs) else (None, None)
    return pair if pair[0] is not None and pair[1] is not None else None  # type: ignore[return-value]


def _difference_title(runs: Sequence[Measured]) -> str:
    if _compared(runs) is None:
        return ""
    return "difference" if len(runs) == 1 else f"{runs[1].run.name} less {runs[0].run.name}"


def _row(name: str, columns: Mapping[str, Results], runs: Sequence[Measured]) -> dict[str, Any]:
    return {
        "name": name,
        "meaning": MEANINGS.get(name, ""),
        "values": [show(results, name) for results in columns.values()],
        "difference": _difference(name, _compared(runs)),
    }


def _difference(name: str, pair: tuple[Results, Results] | None) -> Value:
    """Paired difference, of fractions in points, with its interval if there is a value per image."""
    if pair is None or any(math.isnan(results.metrics.get(name, math.nan)) for results in pair):
        return Value("")
    base, other = ({0: results.to_dict()} for results in pair)
    found = paired_difference(other, base, name)
    if found is None:
        return Value("")
    scale = 100 if pair[0].units[name] == "fraction" else 1
    ends = [f"{scale * end:+.1f}" for end in found.interval or ()]
    return Value(f"{scale * found.mean:+.1f}", " to ".join(ends))


def _monitored(measured: Measured, *, several: bool) -> dict[str, Any] | None:
    """Start and end as the run's own monitor measured them; ``None`` if it did not."""
    state = start_and_end(measured.run)
    start, end = state.get("start") or {}, state.get("end") or {}
    rows = [
        (title, _plain(name, start[name]), _plain(name, end[name]))
        for name, title in NAMES.items()
        if name in start and name in end
    ]
    if not rows:
        return None
    of = f" of {measured.run.name}" if several else ""
    return {"of": of, "rows": rows, "epoch": state["end_epoch"], "labels": "knn_top1" in start}


def _plain(name: str, value: float) -> str:
    if name in ("alignment", "uniformity", "rankme"):
        return f"{value:.2f}"
    return f"{100 * value:.1f} %"


def _of(measured: Measured, runs: Sequence[Measured]) -> str:
    """What a line about a run begins with if there are several."""
    return f"{measured.run.name}: " if len(runs) > 1 else ""


def _notes(runs: Sequence[Measured]) -> list[str]:
    notes = [f"{m.run.name}: {m.start_line}" for m in runs if m.start is None and m.start_line]
    notes += [f"{_of(m, runs)}Before: {m.start_line}." for m in runs if m.start is not None]
    if len(runs) == 2 and not comparable(runs):
        notes.append(
            "The two runs were not evaluated on the same images: their values are not comparable."
        )
    return list(dict.fromkeys(notes))
