"""Rows: runs that are interrupted at random steps, and resumed."""

import random
from collections.abc import Callable
from pathlib import Path

from fault_injection import PLACES
from faults.outcome import Row, World
from interrupted import assert_same_run, fit_options, run_child


def interrupted(
    kind: str, step: int, place: str, code: int, *more: str
) -> Callable[[Path, World], None]:
    """Interrupts a run in a process of its own."""

    def make(here: Path, world: World) -> None:
        out = here / "run"
        done = run_child(
            world["images"], out, *more, fault={"kind": kind, "step": step, "place": place}
        )
        assert done.returncode == code, done.stderr[-2000:]
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
        fit_options(world["images"], out, [], {}, {})  # a recipe without the fault

    return make


def as_if_nothing_was(here: Path, world: World) -> None:
    assert_same_run(world.root / "straight", here / "run")


MID_EPOCH = ("batch_start", "before_save")


def moments(seed: int, count: int, places: tuple[str, ...] = MID_EPOCH) -> list[tuple[int, str]]:
    """Different random steps and places; at an epoch's end where the place is between epochs."""
    rng = random.Random(seed)
    drawn = rng.choices(places, k=count)
    steps = (
        rng.randrange(1, 12) if place in MID_EPOCH else rng.randrange(1, 4) * 3 for place in drawn
    )
    return list(dict.fromkeys(zip(steps, drawn, strict=True)))


INTERRUPTED: list[tuple[str, int, list[tuple[int, str]]]] = [
    ("SIGKILL", -9, moments(0, 14, PLACES)),
    ("group SIGINT", 130, moments(1, 3)),
    ("SIGTERM", 143, moments(2, 3)),
    ("kill in writing", -25, moments(3, 2, ("before_save",))),
    ("disk full", 2, moments(4, 2, ("before_save",))),
]
"""Kind of interruption, exit code, and when."""


def _row(kind: str, code: int, step: int, place: str) -> Row:
    name = f"{kind.removeprefix('group ')} at step {step} ({place.replace('_', ' ')}), resumed"
    make = interrupted(kind, step, place, code)
    return Row(name, "$interrupted", "right", "", make, as_if_nothing_was)


ROWS = {
    "Interruptions": [
        _row(kind, code, step, place) for kind, code, when in INTERRUPTED for step, place in when
    ]
}
