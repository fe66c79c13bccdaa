"""The encoder before and after its training, on the same images: a table, and a warning if it is not better."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from ppssl.utils.results import show_table

__all__ = ["NAMES", "is_better", "report_start_and_end", "training_line"]

NAMES = {
    "knn_top1": "kNN top-1",
    "retrieval_rank1": "retrieval rank-1",
    "retrieval_rank5": "retrieval rank-5",
    "retrieval_map": "retrieval mAP",
    "view_agreement": "views that find each other",
    "alignment": "alignment of views (lower is better)",
    "uniformity": "uniformity (lower is better)",
    "rankme": "RankMe",
}
"""Names of the monitored values in the table."""

_NUMBERS = ("alignment", "uniformity", "rankme")
_JUDGED = ("knn_top1", "retrieval_map")


def is_better(start: Mapping[str, float], end: Mapping[str, float]) -> bool:
    """Whether kNN or mAP is higher at the end; True if neither is known, or both are, and were, at their best."""
    known = [name for name in _JUDGED if name in start and name in end]
    if all(min(start[name], end[name]) >= 1 for name in known):
        return True
    return any(end[name] > start[name] for name in known)


def training_line(checkpoint: Mapping[str, Any]) -> str:
    """One line on start and end of a checkpoint's training; empty if they were not compared."""
    state = checkpoint.get("callbacks", {}).get("RepresentationMonitor", {})
    start, end = state.get("start", {}), state.get("end", {})
    changes = [
        f"{NAMES[name]} {100 * start[name]:.1f} -> {100 * end[name]:.1f} %"
        for name in _JUDGED
        if name in start and name in end
    ]
    if not changes:
        return ""
    epochs = state["end_epoch"]
    return f"Validation images, start and epoch {epochs} of its training: {', '.join(changes)}."


def report_start_and_end(
    start: Mapping[str, float], end: Mapping[str, float], epoch: int, *, pretrained: bool
) -> None:
    """Print the table; warn if the end is not better than the start.

    Args:
        start: Monitored values before the first step, as fractions; RankMe as it is.
        end: Those of the last validation.
        epoch: Number of finished epochs at that validation.
        pretrained: Whether the encoder began from pretrained weights, for the advice.
    """
    rows = []
    for name, title in NAMES.items():
        if name in start and name in end:
            first, last = start[name], end[name]
            if name in _NUMBERS:
                rows.append([title, f"{first:.2f}", f"{last:.2f}", f"{last - first:+.2f}"])
            else:
                values = (100 * first, 100 * last, 100 * (last - first))
                rows.append(
                    [title, f"{values[0]:.1f} %", f"{values[1]:.1f} %", f"{values[2]:+.1f}"]
                )
    title = "Validation images" if any(name in start for name in _JUDGED) else "Training images"
    show_table(title, ["", "start", f"epoch {epoch}", "difference"], rows)
    if not is_better(start, end):
        advice = (
            "the plugin ppssl.Anchor or a higher weight of it (recipe ppssl:photos/pretrain), a lower learning rate, "
            "fewer epochs, and `batch_norm: frozen`"
            if pretrained
            else "more epochs, another learning rate, or pretrained weights"
        )
        rank_zero_warn(f"The encoder is not better than it began. Try {advice}.")
