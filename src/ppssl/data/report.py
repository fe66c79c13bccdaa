"""What a data set has read, in one line, and the images that turn out to be unreadable later."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.rank_zero import rank_prefixed_message

from ppssl.data.scan import CONVERT
from ppssl.data.source import UNKNOWN, ImageSource, PassedOver
from ppssl.utils.errors import UserError

__all__ = ["merged", "report", "report_unreadable", "summary"]

_EMPTY = "folders without images"

_REASONS = 4
"""Largest number of reasons that are listed."""


def report(sources: Mapping[str, ImageSource], place: object = None) -> None:
    """Say what was read; warn if images that Pillow does not read were passed over.

    Args:
        sources: The image sources by split.
        place: Folder of the data set, if it has one.
    """
    rank_zero_info(summary(sources, place))
    found = merged(sources.values())
    if _EMPTY in found:
        rank_zero_warn(
            f"No class was made of {_listed({_EMPTY: found[_EMPTY]})}: remove them, or add images."
        )
    images = {k: v for k, v in found.items() if k in CONVERT}
    if images:
        rank_zero_warn(
            f"Images that Pillow does not read were passed over: {_listed(images)}. Convert them to JPEG or PNG."
        )


def report_unreadable(
    broken: Iterable[tuple[str, str]], on_error: Literal["raise", "skip"], warned: set[str]
) -> None:
    """Raise an error for the first unreadable image, or warn of each that was skipped, once.

    Args:
        broken: Name of each unreadable image of a batch, and the reason.
        on_error: See :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
        warned: Names of the images that were warned of before; new ones are added.

    Raises:
        UserError: There is an unreadable image, and ``on_error`` is ``"raise"``.
    """
    for name, reason in broken:
        if on_error == "raise":
            raise UserError(
                f"Cannot read {name}: {reason}. Repair or remove the file, or set `on_error: skip`."
            )
        if name not in warned:
            warned.add(name)
            # by each process, which has images of its own; the first one's message has no prefix
            rank = getattr(rank_zero_only, "rank", None) or None
            warnings.warn(rank_prefixed_message(f"Skipped {name}: {reason}.", rank), stacklevel=2)


def summary(sources: Mapping[str, ImageSource], place: object = None) -> str:
    """One line: images, classes and splits that were read, and what was passed over, with a count and an example."""
    total = sum(len(source) for source in sources.values())
    unknown = sum(int((source.labels == UNKNOWN).sum()) for source in sources.values())
    classes = len(sources["train"].classes)
    kinds = f"{classes:,} class{'es' if classes != 1 else ''}"
    labels = "without labels" if unknown == total else f"of {kinds}"
    if 0 < unknown < total:
        labels += f" ({unknown:,} without label)"
    splits = ", ".join(f"{name} {len(source):,}" for name, source in sources.items())
    origin = "" if place is None else f" from {place}"
    passed_over = merged(sources.values())
    rest = f"; passed over: {_listed(passed_over)}" if passed_over else ""
    squashed = ", squashed to squares" if sources["train"].squash else ""
    return f"Read {total:,} images {labels}{origin}{squashed}: {splits}{rest}."


def merged(sources: Iterable[ImageSource]) -> PassedOver:
    """What several sources passed over; the example is that of the first one."""
    result: PassedOver = {}
    for source in sources:
        for reason, (count, example) in source.passed_over.items():
            before, first = result.get(reason, (0, example))
            result[reason] = (before + count, first)
    return result


def _listed(passed_over: PassedOver) -> str:
    most = sorted(passed_over.items(), key=lambda item: (item[0] not in CONVERT, -item[1][0]))
    shown = [f"{count:,} {reason} ({example})" for reason, (count, example) in most[:_REASONS]]
    others = sum(count for _, (count, _) in most[_REASONS:])
    return ", ".join(shown + ([f"{others:,} others"] if others else []))
