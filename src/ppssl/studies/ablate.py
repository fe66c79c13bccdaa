"""Ablation studies: train and evaluate variants of a recipe with several seeds, one process and one JSON per run.

Runs whose JSON exists are not repeated, so an interrupted study continues where it stopped.
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

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from ppssl.utils.errors import ArgumentError, UserError, did_you_mean
from ppssl.utils.paths import AnyPath, only_writer, writable_file, writable_folder
from ppssl.utils.recipes import read_yaml

__all__ = ["FROM_COMMAND_LINE", "Study", "ablate", "load_study"]

FROM_COMMAND_LINE = "given"
"""Value of an override in a study that must be given on the command line, such as the path of a checkpoint."""
_SHARED_CORES = {"OMP_WAIT_POLICY": "passive"}  # a waiting thread leaves its core to other runs


@dataclass(frozen=True)
class Study:
    """Ablation study: variants of a recipe, and their seeds.

    Attributes:
        recipe: The recipe: a file, or ``ppssl:<folder>/<recipe>``.
        variants: By variant name, overrides of the recipe by dotted name; ``{}`` is the recipe itself. An override with
            the value ``given`` takes its value from the command line, and applies to this variant only.
        seeds: Seeds of each variant.
        overrides: Overrides of all variants.
        grid: Lists of values by dotted name: each variant is run with every combination of them.
        baseline: The variant that the others are compared with; default: the first.
    """

    recipe: str
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"base": {}})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    overrides: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    baseline: str | None = None

    def runs(self) -> list[dict[str, Any]]:
        """List all runs of the study.

        Returns:
            For each run ``variant``, ``seed``, ``recipe``, ``overrides`` and ``key``, a hash of all its settings.
        """
        recipe = _override(_recipe_settings("ppssl:base"), _recipe_settings(self.recipe))
        grid_points = [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]
        runs = []
        for seed, (name, variant), point in itertools.product(
            self.seeds, self.variants.items(), grid_points
        ):
            label = ",".join([name, *(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in point.items())])
            overrides = self.overrides | variant | point
            settings = json.dumps([_override(recipe, overrides), seed], sort_keys=True)
            run = {
                "variant": label,
                "seed": seed,
                "recipe": self.recipe,
                "overrides": overrides,
                "key": hashlib.sha256(settings.encode()).hexdigest()[:16],
            }
            runs.append(run)
        return runs


def _recipe_settings(name: str) -> dict[str, Any]:
    """Settings of a recipe by dotted name, without the output folder, which does not change the results."""
    settings = _flatten(read_yaml(name))
    settings.pop("trainer.default_root_dir", None)
    return settings


def _flatten(content: Any, name: str = "") -> dict[str, Any]:
    """Settings by dotted name, without ``init_args``, as on the command line."""
    if not isinstance(content, Mapping) or not content:
        return {name: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flatten(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    return flat


def _override(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with overrides; an override replaces the setting of its name and all settings below that name."""
    flat = dict(settings)
    for name, value in overrides.items():
        below = f"{name}."
        flat = {n: v for n, v in flat.items() if n != name and not n.startswith(below)}
        flat |= _flatten(value, name)
    return flat


def load_study(path: AnyPath) -> Study:
    """Read a study from YAML; its keys are the attributes of :class:`Study`.

    Raises:
        UserError: The file does not exist, or is not a study.
    """
    content = read_yaml(path)
    valid_keys = sorted(Study.__dataclass_fields__)
    problem = ""
    if not isinstance(content, Mapping):
        problem = "not a mapping"
    elif unknown := sorted(set(content) - set(valid_keys)):
        problem = f"unknown key {', '.join(unknown)}"
    elif "recipe" not in content:
        problem = "no `recipe`"
    if problem:
        raise UserError(f"{path} is not a study ({problem}): its keys are {', '.join(valid_keys)}.")
    _check_types(content, path)
    study = Study(**content)
    _check_runs(study, path)
    return study


def _check_runs(study: Study, path: Any) -> None:
    """Check, before the first run, what would be noticed only after it."""
    names = list(study.variants)
    problem = ""
    if not (study.seeds and names and all(study.grid.values())):
        problem = "it has no runs: `seeds`, `variants` and each list of `grid` need an entry"
    elif bad := [s for s in study.seeds if type(s) is not int or not 0 <= s < 2**32]:
        problem = f"`seeds` must be whole numbers from 0 to {2**32 - 1}, got {bad[0]!r}"
    elif len(set(study.seeds)) < len(study.seeds):
        problem = f"`seeds` has a number twice: {study.seeds}"
    elif others := [name for name in names if type(name) is not str]:
        problem = f"names of `variants` must be text, got {others[0]!r}: write it in quotes"
    if problem:
        raise UserError(f"{path}: {problem}.")
    runs = study.runs()
    labels = list(dict.fromkeys(run["variant"] for run in runs))
    if study.baseline is not None and study.baseline not in labels:
        hint = did_you_mean(study.baseline, labels, f": there are {'; '.join(labels)}")
        raise UserError(f"{path}: `baseline` {study.baseline!r} is not one of the variants{hint}.")
    places: dict[Path, str] = {}
    for run in runs:
        other = places.setdefault(_result_path(run, Path()), run["variant"])
        if other != run["variant"]:
            raise UserError(
                f"{path}: the variants `{other}` and `{run['variant']}` would write to the same folder: rename one."
            )


def _check_types(content: Mapping[str, Any], path: Any) -> None:
    """Check that lists are lists and mappings are mappings, in the study and one level below."""
    expected: dict[str, type] = {"variants": dict, "seeds": list, "overrides": dict, "grid": dict}
    checks = [(name, content[name], kind) for name, kind in expected.items() if name in content]
    expected_entries: dict[str, type] = {"variants": dict, "grid": list}
    for name, kind in expected_entries.items():
        entries = content.get(name)
        if isinstance(entries, dict):
            checks += [(f"{name}.{key}", value, kind) for key, value in entries.items()]
    for name, value, kind in checks:
        if not isinstance(value, kind):
            rule = "a list" if kind is list else "a mapping ({} for none)"
            raise UserError(f"{path}: `{name}` must be {rule}, got {value!r}.")


def ablate(
    study: Study,
    out: AnyPath,
    *,
    jobs: int = 1,
    work: AnyPath | None = None,
    local: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run the runs of a study that have no result yet.

    Args:
        study: The study.
        out: Folder of the results, one JSON per run: ``<variant>/seed<k>.json``.
        jobs: Number of runs at a time; they share the cores.
        work: Folder of the checkpoints and logs; ``None``: ``runs/ablate/<name of out>``.
        local: Overrides of this machine, such as ``--data.root=...``; they are neither part of a run's key nor written
            to its results. ``{seed}`` and ``{variant}`` in a value are replaced by the run's, the latter as in ``out``.

    Returns:
        The content of each run's JSON, in the order of :meth:`Study.runs`.

    Raises:
        UserError: A folder cannot be written or is in use, a JSON in ``out`` is from other settings, an override that
            the command line must give is missing, or a run failed; the results of the other runs are kept.
    """
    if jobs < 1:
        raise ArgumentError(f"`jobs` must be >= 1, got {jobs}.")
    out, runs = writable_folder(out), study.runs()
    work = writable_folder(Path("runs/ablate") / out.name if work is None else work)
    pending = [run for run in runs if not _is_done(run, out)]
    for run in pending:
        writable_file(_result_path(run, out))
    overrides = {_result_path(run, out): _local_overrides(run, local, runs) for run in pending}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with only_writer(work), Progress(*columns) as progress:
        completed = len(runs) - len(pending)
        task = progress.add_task("Runs", total=len(runs), completed=completed)
        runner = _Runner(out, work, jobs, overrides)
        runner.run_all(pending, lambda: progress.advance(task))
    return [json.loads(_result_path(run, out).read_text()) for run in runs]


def _result_path(run: Mapping[str, Any], out: Path) -> Path:
    return out / _folder_name(run) / f"seed{run['seed']}.json"


def _folder_name(run: Mapping[str, Any]) -> str:
    """Name of a run's variant as a folder."""
    return "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in run["variant"])


def _local_overrides(
    run: Mapping[str, Any], local: Sequence[str], runs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The local overrides that apply to a run: not those that only other variants ask for."""
    required = _from_command_line(run)
    for_other_variants = {name for other in runs for name in _from_command_line(other)} - required
    by_name = {override.removeprefix("--").partition("=")[0]: override for override in local}
    if missing := sorted(required - by_name.keys()):
        raise UserError(
            f"The variant `{run['variant']}` needs `--{missing[0]}=...` on the command line: in the study its value is "
            f"`{FROM_COMMAND_LINE}`."
        )
    return [
        override.replace("{seed}", str(run["seed"])).replace("{variant}", _folder_name(run))
        for name, override in by_name.items()
        if name not in for_other_variants
    ]


def _from_command_line(run: Mapping[str, Any]) -> set[str]:
    """Names of the overrides of a run that the command line must give."""
    return {name for name, value in run["overrides"].items() if value == FROM_COMMAND_LINE}


def _is_done(run: Mapping[str, Any], out: Path) -> bool:
    path = _result_path(run, out)
    if not path.is_file():
        return False
    try:
        key = json.loads(path.read_text())["cell"]["key"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no result of a run, or is damaged: remove it, and the run is repeated."
        ) from error
    if key != run["key"]:
        raise UserError(
            f"{path} is from another recipe or other overrides: remove it, or choose another `--out` folder."
        )
    return True


class _Runner:
    """Runs the runs of a study in processes, several at a time; an interruption stops all of them."""

    def __init__(
        self, out: Path, work: Path, jobs: int, overrides: Mapping[Path, list[str]]
    ) -> None:
        self.out, self.work, self.jobs, self.overrides = out, work, jobs, overrides
        self.threads = max(1, (os.cpu_count() or 1) // jobs)
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.stopped = threading.Event()

    def run_all(self, runs: list[dict[str, Any]], done: Callable[[], None]) -> None:
        """Run all runs, and call ``done`` after each; one that fails does not end the others."""
        failed: list[UserError] = []
        with _exit_on_sigterm(), ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._run, run) for run in runs]
            try:
                for future in as_completed(futures):
                    try:
                        future.result()
                    except UserError as error:
                        failed.append(error)
                    done()
            finally:
                self.stopped.set()
                for process in list(self.running.values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
        if failed:
            raise UserError(f"{failed[0]} {len(failed)} of {len(runs)} runs failed.")

    def _run(self, run: dict[str, Any]) -> None:
        if self.stopped.is_set():
            return
        path = _result_path(run, self.out)
        folder = self.work / path.relative_to(self.out).with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        command = [sys.executable, "-m", "ppssl.studies.single_run", json.dumps(run), str(path)]
        command += [*self.overrides[path], f"--trainer.default_root_dir={folder}"]
        with log.open("wb") as output:
            env = _SHARED_CORES | os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
            self.running[process.pid] = process
            code = process.wait()
            self.running.pop(process.pid)
        if code != 0 and not self.stopped.is_set():
            lines = log.read_text(errors="replace").strip().splitlines()
            reason = (lines or [f"no output, exit code {code}"])[-1]
            raise UserError(f"{run['variant']}, seed {run['seed']} failed: {reason} (see {log}).")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit normally on SIGTERM, so that the running processes are stopped too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
