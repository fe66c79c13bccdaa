"""A line for data sets whose labels do not suffice for what a callback monitors."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

__all__ = ["report_missing_labels"]


def report_missing_labels(trainer: Trainer, stage: str, values: str) -> None:
    """Say that nothing will be monitored, and why, if there is no labelled image to validate on.

    Args:
        trainer: Its data module is one of ppssl's; nothing is known of the labels of others.
        stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        values: What is not monitored then, for the message.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "has_labels") or stage == "predict":
        return
    if not data.has_labels():
        rank_zero_info(f"No labels: {values} not monitored.")
    elif stage in ("fit", "validate") and not data.val_dataloader():
        rank_zero_info(
            f"No labelled image to validate on: {values} not monitored. Label two images or more of a class, raise "
            "`data.val_fraction`, or add a `val/` folder."
        )
