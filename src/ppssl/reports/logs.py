"""Values that a run logged, from TensorBoard's event files or from the CSV logger's table."""

import csv
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from ppssl.reports.run import EVENTS, METRICS

__all__ = ["Scalars", "read_logs"]

Scalars = dict[str, tuple[np.ndarray, np.ndarray]]
"""By name, steps ``(N,)`` int64 in ascending order and values ``(N,)`` float64."""


def read_logs(folders: Sequence[Path]) -> tuple[Scalars, int]:
    """Read the logs of a run that may have been resumed.

    Args:
        folders: Log folders of its starts, the last start first.

    Returns:
        The values, of several logs of a step those of the last start; and the number of logs that belong to the run.
        An earlier log belongs to it if the later one does not begin at the first step.
    """
    scalars: Scalars = {}
    used = 0
    for folder in folders:
        if used and not _is_continued(scalars):
            break
        scalars = _joined(_read(folder), scalars)
        used += 1
    return scalars, used


def _is_continued(scalars: Scalars) -> bool:
    """Whether the values begin later than at the first step that is logged: at 9 of 9, 19, ..., or at 0."""
    steps = max((steps for steps, _ in scalars.values()), key=len, default=np.empty(0))
    return len(steps) > 1 and bool(steps[0] >= steps[1] - steps[0])


def _joined(earlier: Scalars, later: Scalars) -> Scalars:
    """Values of both; the later log replaces the earlier one from its first step on."""
    joined = dict(earlier)
    for name, (steps, values) in later.items():
        if name in earlier:
            keep = earlier[name][0] < steps[0]
            steps = np.concatenate([earlier[name][0][keep], steps])
            values = np.concatenate([earlier[name][1][keep], values])
        joined[name] = (steps, values)
    return joined


def _read(folder: Path) -> Scalars:
    if any(True for _ in folder.glob(EVENTS)):
        return _read_events(folder)
    return _read_csv(folder / METRICS)


def _read_events(folder: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    events.Reload()
    for path in sorted(folder.glob(EVENTS)):
        read, size = _readable(path), path.stat().st_size
        if read < size:
            rank_zero_warn(
                f"{path} is damaged or was cut off in writing: its values are read up to byte {read} of {size}."
            )
    return {
        name: _in_order([(event.step, event.value) for event in events.Scalars(name)])
        for name in events.Tags()["scalars"]
    }


def _readable(path: Path) -> int:
    """Bytes of an event file up to the first record that is not whole, where TensorBoard ends without a word."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    end = 0
    with path.open("rb") as file:
        for _ in RawEventFileLoader(str(path)).Load():
            file.seek(end)
            (length,) = struct.unpack("<Q", file.read(8))
            end += 8 + 4 + length + 4  # length, its checksum, content, its checksum
    return end


def _read_csv(path: Path) -> Scalars:
    """The values of a table; what is no number, as in a torn line, is left out with a warning."""
    rows: dict[str, list[tuple[int, float]]] = {}
    odd = 0
    # a crash may leave blocks of zeros
    content = path.read_text("utf-8", "replace").replace("\0", "")
    for line in csv.DictReader(content.splitlines(), quoting=csv.QUOTE_NONE):
        step = line.pop("step", None)
        for name, text in line.items():
            if step and text:
                try:
                    rows.setdefault(name, []).append((int(float(step)), float(text)))
                except (TypeError, ValueError, OverflowError):
                    odd += 1
    rows = {name: points for name, points in rows.items() if points}
    if odd:
        rank_zero_warn(f"{path}: {odd} entries are no numbers of a step, and are left out.")
    return {name: _in_order(points) for name, points in rows.items()}


def _in_order(points: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; of a step that was logged twice, the last value."""
    last = dict(sorted(points, key=lambda point: point[0]))
    return np.array(list(last), np.int64), np.array(list(last.values()), np.float64)
