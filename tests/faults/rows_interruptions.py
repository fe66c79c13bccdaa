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


def moments(seed: int, count: int, places: tuple[str, ...] = PLACES) -> list[tuple[int, str]]:
    """Random steps and places; after the first epoch where they are between epochs."""
    rng = random.Random(seed)
    return [(rng.randrange(1, 4) * 3 if p not in ("batch_start", "before_save") else rng.randrange(1, 12), p) for p in rng.choices(places, k=count)]  # fmt: skip


KILLED = [("SIGKILL", -9, moments(0, 14)), ("group SIGINT", 130, moments(1, 3, ("batch_start", "before_save"))),
          ("SIGTERM", 143, moments(2, 3, ("batch_start", "before_save"))), ("kill in writing", -25, moments(3, 2, ("before_save",))),
          ("disk full", 2, moments(4, 2, ("before_save",)))]  # fmt: skip
KILLS = [
    Row(f"{kind.removeprefix('group ')} at step {step} ({place.replace('_', ' ')}), resumed", "$interrupted", "right", "", interrupted(kind, step, place, code), as_if_nothing_was)
    for kind, code, when in KILLED
    for step, place in dict.fromkeys(when)
]  # fmt: skip
ROWS = {"Interruptions": KILLS}
