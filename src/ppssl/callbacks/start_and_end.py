"""The encoder before and after its training, on the same images: a table, and a warning if it is not better."""

from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_warn

from ppssl.utils.results import show_table

__all__ = ["NAMES", "is_better", "report_start_and_end"]

NAMES = {
    "knn_top1": "kNN top-1",
    "retrieval_rank1": "retrieval rank-1",
    "retrieval_rank5": "retrieval rank-5",
    "retrieval_map": "retrieval mAP",
    "rankme": "RankMe",
}
"""Names of the monitored values in the table."""

_JUDGED = ("knn_top1", "retrieval_map")


def is_better(start: Mapping[str, float], end: Mapping[str, float]) -> bool:
    """Whether kNN or mAP is higher at the end; True if neither is known."""
    known = [name for name in _JUDGED if name in start and name in end]
    return not known or any(end[name] > start[name] for name in known)


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
            scale = 1 if name == "rankme" else 100
            values = [scale * value for value in (start[name], end[name], end[name] - start[name])]
            rows.append([title, f"{values[0]:.1f}", f"{values[1]:.1f}", f"{values[2]:+.1f}"])
    show_table("Validation images, %", ["", "start", f"epoch {epoch}", "difference"], rows)
    if not is_better(start, end):
        advice = (
            "the plugin ppssl.Anchor or a higher weight of it (recipe ppssl:photos/pretrain), a lower learning rate, "
            "fewer epochs, and `batch_norm: frozen`"
            if pretrained
            else "more epochs, another learning rate, or pretrained weights"
        )
        rank_zero_warn(f"The encoder is not better than it began. Try {advice}.")
