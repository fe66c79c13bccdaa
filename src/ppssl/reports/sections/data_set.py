"""What was trained, and on what: images, classes, splits, and what was passed over."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppssl.data.report import merged, summary
from ppssl.data.source import UNKNOWN
from ppssl.reports.measured import Measured
from ppssl.reports.pictures import Pictures
from ppssl.reports.section import Section, per_run

__all__ = ["section"]

EXAMPLES = 12
"""Number of training images that are shown."""


def section(runs: Sequence[Measured], pictures: dict[str, Pictures]) -> Section:
    """Make the section."""
    return per_run(
        "data_set", "What was trained on what", runs, lambda m: _content(m, pictures[m.run.name])
    )


def _content(measured: Measured, pictures: Pictures) -> dict[str, Any]:
    data, content = measured.data, measured.run.content
    model = content["ppssl"]["model"]
    plugins = model["init_args"].get("plugins") or {}
    facts = {
        "Model": f"{model['class_path'].rpartition('.')[2]}, encoder {content['ppssl']['encoder']['backbone']}",
        "Weights before": measured.start_line if measured.start else "",
        "Loss plugins": ", ".join(
            f"{name} ({plugin['class_path'].rpartition('.')[2]})"
            for name, plugin in plugins.items()
        ),
        "Trained for": f"{content['global_step']:,} steps, to epoch {content['epoch'] + 1:,}",
        "Image size": f"{data.image_size} pixels",
        "Evaluation": "" if measured.splits is None else measured.splits.summary(),
        "Without evaluation": measured.no_labels,
    }
    return {
        "summary": summary(data.sources),
        "facts": {name: text for name, text in facts.items() if text},
        "splits": [_row(name, source.labels) for name, source in data.sources.items()],
        "passed_over": [
            (reason, count, example)
            for reason, (count, example) in merged(data.sources.values()).items()
        ],
        "examples": _examples(measured, pictures),
        "classes": _class_sizes(measured),
        "split_names": list(data.sources),
    }


def _row(name: str, labels: np.ndarray) -> dict[str, Any]:
    """Numbers of a split; sizes of classes without labels are left out."""
    known = labels[labels != UNKNOWN]
    sizes = np.unique(known, return_counts=True)[1]
    return {
        "name": name,
        "images": len(labels),
        "labelled": len(known),
        "classes": len(sizes),
        "sizes": (int(sizes.min()), float(np.median(sizes)), int(sizes.max()))
        if len(sizes)
        else None,
    }


def _examples(measured: Measured, pictures: Pictures) -> list[dict[str, str]]:
    """Evenly spaced training images, of those that could be read."""
    first, count = measured.data.offset("train"), measured.data.num_train
    index, labels = measured.images.index.numpy(), measured.images.labels
    rows = np.nonzero((index >= first) & (index < first + count))[0]
    rows = rows[np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int)]
    return [
        {"uri": pictures.uri(int(index[r])), "caption": measured.class_name(int(labels[r]))}
        for r in rows
    ]


def _class_sizes(measured: Measured) -> list[tuple[str, list[int]]]:
    """Images of each class, by split."""
    classes = measured.data.classes
    counts = [
        np.bincount(source.labels[source.labels >= 0], minlength=len(classes))
        for source in measured.data.sources.values()
    ]
    return [(name, [int(count[k]) for count in counts]) for k, name in enumerate(classes)]
