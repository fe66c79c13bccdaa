"""A grid of overrides times seeds over a recipe: each cell a process of its own, each result a JSON file.

What has its JSON is not run again, so an interrupted grid goes on where it stopped, and committed files count.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ppssl.studies.recipes import read_yaml
from ppssl.utils.errors import UserError

__all__ = ["GIVEN", "Study", "ablate", "load_study"]

GIVEN = "given"
"""An override's value that a study leaves open, such as a checkpoint's path: the command line gives it."""


@dataclass(frozen=True)
class Study:
    """What is to be compared.

    Attributes:
        recipe: The recipe that everything starts from: a file, or ``ppssl:<folder>/<recipe>``.
        variants: Overrides by variant name; dotted names and plain values, ``{}`` for the recipe itself. One whose
            value is ``given`` is this machine's own, from the command line, for the variants that say so alone.
        seeds: The seeds of each variant.
        overrides: Overrides common to all variants.
        grid: Lists of values by dotted name: every variant is run with every combination of them.
        baseline: The variant that the others are compared with; the first by default.
    """

    recipe: str
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"base": {}})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    overrides: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    baseline: str | None = None

    def cells(self) -> list[dict[str, Any]]:
        """Every run: ``variant``, ``seed``, ``recipe``, ``overrides`` and ``key``, which tells equal runs."""
        recipe = _overlaid(_settings("ppssl:base"), _settings(self.recipe))
        cells = []
        for seed, (name, own), values in itertools.product(
            self.seeds, self.variants.items(), itertools.product(*self.grid.values())
        ):
            point = dict(zip(self.grid, values, strict=True))
            label = ",".join([name, *(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in point.items())])
            overrides = self.overrides | own | point
            content = json.dumps([_overlaid(recipe, overrides), seed], sort_keys=True)
            key = hashlib.sha256(content.encode()).hexdigest()[:16]
            cells.append(
                {
                    "variant": label,
                    "seed": seed,
                    "recipe": self.recipe,
                    "overrides": overrides,
                    "key": key,
                }
            )
        return cells


def _settings(name: str) -> dict[str, Any]:
    """What a recipe says, by dotted name; neither comments nor the place where runs are put tell recipes apart."""
    settings = _flat(read_yaml(name))
    settings.pop("trainer.default_root_dir", None)
    return settings


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Settings by dotted name, as the command line spells them: without ``init_args``."""
    if not isinstance(content, Mapping) or not content:
        return {name: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    return flat


def _overlaid(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with overrides, which replace all below their name."""
    flat = dict(settings)
    for name, value in overrides.items():
        below = f"{name}."
        flat = {n: v for n, v in flat.items() if n != name and not n.startswith(below)}
        flat |= _flat(value, name)
    return flat


def load_study(path: str) -> Study:
    """A study from YAML, whose keys are the attributes of :class:`Study`.

    Raises:
        UserError: No such file, or not a study.
    """
    content = read_yaml(path)
    known = set(Study.__dataclass_fields__)
    if not isinstance(content, Mapping) or "recipe" not in content or set(content) - known:
        odd = (
            ", ".join(sorted(set(content or {}) - known))
            if isinstance(content, Mapping)
            else "no mapping"
        )
        raise UserError(
            f"{path} is no study ({odd or 'no `recipe`'}): it takes {', '.join(sorted(known))}."
        )
    _check_types(content, path)
    return Study(**content)


def _check_types(content: Mapping[str, Any], path: str) -> None:
    """Raise on what would otherwise fail, or be taken letter by letter, far from the file that says it."""
    kinds: dict[str, Any] = {"variants": dict, "seeds": list, "overrides": dict, "grid": dict}
    found = [(name, content[name], kind) for name, kind in kinds.items() if name in content]
    for name, kind in (("variants", dict), ("grid", list)):
        items = content.get(name)
        found += (
            [(f"{name}.{k}", v, kind) for k, v in items.items()] if isinstance(items, dict) else []
        )
    for name, value, kind in found:
        if not isinstance(value, kind):
            wanted = "a list" if kind is list else "a mapping ({} for none)"
            raise UserError(f"{path}: `{name}` must be {wanted}, got {value!r}.")


def ablate(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    work: str | Path | None = None,
    local: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run what is not there yet.

    Args:
        study: What to run.
        out: The folder of the results: one JSON a cell, ``<variant>/seed<k>.json``.
        jobs: Cells at a time; the cores are shared out among them.
        work: Where runs leave their checkpoints and logs; ``None``: ``runs/ablate/<name of out>``.
        local: Overrides of this machine, such as ``--data.root=...``: they do not tell runs apart. ``{seed}`` in one
            stands for the run's seed.

    Returns:
        The content of each cell's JSON.

    Raises:
        UserError: A JSON comes from other settings, an override that the study leaves open is not given, or a cell
            failed; the others' results stay.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be >= 1, got {jobs}.")
    out, cells = Path(out), study.cells()
    work = Path("runs/ablate") / out.name if work is None else Path(work)
    todo = [cell for cell in cells if not _is_done(cell, out)]
    own = {cell["key"]: _own(cell, local, cells) for cell in todo}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("Runs", total=len(cells), completed=len(cells) - len(todo))
        runner = _Runner(out, work, jobs, own)
        runner.run(todo, lambda: progress.advance(task))
    return [json.loads(_path(cell, out).read_text()) for cell in cells]


def _path(cell: Mapping[str, Any], out: Path) -> Path:
    safe = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in cell["variant"])
    return out / safe / f"seed{cell['seed']}.json"


def _own(
    cell: Mapping[str, Any], local: Sequence[str], cells: Sequence[Mapping[str, Any]]
) -> list[str]:
    """This machine's overrides for a cell."""
    asked = _left_open(cell)
    others = {name for other in cells for name in _left_open(other)} - asked
    by_name = {override.removeprefix("--").partition("=")[0]: override for override in local}
    if missing := sorted(asked - by_name.keys()):
        raise UserError(
            f"The variant `{cell['variant']}` needs `--{missing[0]}=...` on the command line: the study leaves it open."
        )
    seed = str(cell["seed"])
    return [o.replace("{seed}", seed) for name, o in by_name.items() if name not in others]


def _left_open(cell: Mapping[str, Any]) -> set[str]:
    return {name for name, value in cell["overrides"].items() if value == GIVEN}


def _is_done(cell: Mapping[str, Any], out: Path) -> bool:
    path = _path(cell, out)
    if not path.is_file():
        return False
    if json.loads(path.read_text())["cell"]["key"] != cell["key"]:
        raise UserError(
            f"{path} comes from another recipe or other overrides: remove it, or choose another folder."
        )
    return True


class _Runner:
    """Runs cells as processes, some at a time; an interruption or a failure ends the running ones."""

    def __init__(self, out: Path, work: Path, jobs: int, local: Mapping[str, list[str]]) -> None:
        self.out, self.work, self.jobs, self.local = out, work, jobs, local
        self.threads = max(1, (os.cpu_count() or 1) // jobs)
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.stopped = threading.Event()

    def run(self, cells: list[dict[str, Any]], done: Callable[[], None]) -> None:
        """Run all; ``done`` is called after each."""
        with _exit_on_sigterm(), ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._run, cell) for cell in cells]
            try:
                for future in as_completed(futures):
                    future.result()
                    done()
            finally:
                self.stopped.set()
                for process in list(self.running.values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)

    def _run(self, cell: dict[str, Any]) -> None:
        if self.stopped.is_set():
            return
        path = _path(cell, self.out)
        folder = self.work / path.relative_to(self.out).with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        local = [*self.local[cell["key"]], f"--trainer.default_root_dir={folder}"]
        command = [
            sys.executable,
            "-m",
            "ppssl.studies.single_run",
            json.dumps(cell),
            str(path),
            *local,
        ]
        with log.open("wb") as output:
            env = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
            self.running[process.pid] = process
            code = process.wait()
            self.running.pop(process.pid)
        if code != 0 and not self.stopped.is_set():
            last = (
                log.read_text(errors="replace").strip().splitlines()
                or [f"no output, exit code {code}"]
            )[-1]
            raise UserError(f"{cell['variant']}, seed {cell['seed']} failed: {last} (see {log}).")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """End as on Ctrl-C, the running cells too: Python itself would leave them behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
