"""Learning curves: what the run logged, grouped into charts."""

import re
from collections.abc import Sequence

import numpy as np

from ppssl.reports.charts import Chart, line_chart
from ppssl.reports.logs import Scalars, read_logs
from ppssl.reports.measured import Measured
from ppssl.reports.section import Section

__all__ = ["section"]

GROUPS = {
    "Loss": r"train/loss(_epoch|_step)?",
    "Contrastive loss": r"train/loss_contrastive",
    "Other loss terms": r"train/loss_.*",
    "kNN and retrieval, validation images": r"val/(knn|retrieval)_.*",
    "Accuracy": r"(train|val)/(top1|top5|macro)",
    "RankMe, validation images": r"val/rankme",
    "Learning rate": r"train/lr|lr-.*",
    "Images per second": r"train/images_per_second",
    "Share of the time that is spent waiting for data": r"train/data_wait",
}
"""Charts by title, with the names of their values; each value is in the first chart that takes it."""
_LEFT_OUT = re.compile(r"epoch|step|hp_metric|.*_health_.*")
MOST_LINES = 6
"""Lines in a chart."""


def section(runs: Sequence[Measured]) -> Section:
    """Make the section; lines of two runs are in the same charts."""
    logs = {m.run.name: read_logs(m.run.logs) for m in runs}
    title = "Learning curves"
    if not any(scalars for scalars, _ in logs.values()):
        line = "There are no logs beside the checkpoint (TensorBoard's event files or metrics.csv)."
        return Section("curves", title, {"": line})
    charts = _charts({name: scalars for name, (scalars, _) in logs.items()})
    notes = [
        f"{name}: the logs of {used} starts are joined."
        for name, (_, used) in logs.items()
        if used > 1
    ]
    notes += [f"{name}: no logs beside the checkpoint." for name, (s, _) in logs.items() if not s]
    main = [chart for chart in charts if chart.title in GROUPS]
    rest = [chart for chart in charts if chart.title not in GROUPS]
    return Section("curves", title, {"": {"charts": main, "more": rest, "notes": notes}})


def _charts(logs: dict[str, Scalars]) -> list[Chart]:
    names = sorted({name for scalars in logs.values() for name in scalars})
    grouped: dict[str, list[str]] = {title: [] for title in GROUPS}
    for name in names:
        if not _LEFT_OUT.fullmatch(name):
            title = next((t for t, names in GROUPS.items() if re.fullmatch(names, name)), name)
            grouped.setdefault(title, []).append(name)
    charts = [
        line_chart(title, _series(members, logs)) for title, members in grouped.items() if members
    ]
    return [chart for chart in charts if chart is not None]


def _series(names: list[str], logs: dict[str, Scalars]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The lines of a chart: of two runs each value twice."""
    prefix = len(logs) > 1
    lines = {
        (f"{run}: {name}" if prefix else name): scalars[name]
        for name in names
        for run, scalars in logs.items()
        if name in scalars
    }
    return dict(list(lines.items())[: MOST_LINES * len(logs)])
