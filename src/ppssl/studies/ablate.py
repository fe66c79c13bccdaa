"""Ablation studies: train and evaluate variants of a recipe with several seeds, one process and one JSON per run.

Runs whose JSON exists are not repeated, so an interrupted study continues where it stopped.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from ppssl.studies.option_checks import check_options
from ppssl.studies.study import FROM_COMMAND_LINE, Study, folder_name, result_path
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import AnyPath, only_writer, writable_file, writable_folder

__all__ = ["ablate"]

_SHARED_CORES = {"OMP_WAIT_POLICY": "passive"}  # a waiting thread leaves its core to other runs


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
        The content of each run's JSON, in the order of :meth:`~ppssl.studies.study.Study.runs`.

    Raises:
        UserError: A folder cannot be written or is in use, a JSON in ``out`` is from other settings, an override that
            the command line must give is missing, an option is unknown or its value of the wrong type, all before
            any run; or a run failed, and the results of the other runs are kept.
    """
    if jobs < 1:
        raise ArgumentError(f"`jobs` must be >= 1, got {jobs}.")
    out, runs = writable_folder(out), study.runs()
    work = writable_folder(Path("runs/ablate") / out.name if work is None else work)
    pending = [run for run in runs if not _is_done(run, out)]
    for run in pending:
        writable_file(result_path(run, out))
    overrides = {result_path(run, out): _local_overrides(run, local, runs) for run in pending}
    check_options([(run, overrides[result_path(run, out)]) for run in pending])
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with only_writer(work), Progress(*columns) as progress:
        completed = len(runs) - len(pending)
        task = progress.add_task("Runs", total=len(runs), completed=completed)
        runner = _Runner(out, work, jobs, overrides)
        runner.run_all(pending, lambda: progress.advance(task))
    return [json.loads(result_path(run, out).read_text()) for run in runs]


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
        override.replace("{seed}", str(run["seed"])).replace("{variant}", folder_name(run))
        for name, override in by_name.items()
        if name not in for_other_variants
    ]


def _from_command_line(run: Mapping[str, Any]) -> set[str]:
    """Names of the overrides of a run that the command line must give."""
    return {name for name, value in run["overrides"].items() if value == FROM_COMMAND_LINE}


def _is_done(run: Mapping[str, Any], out: Path) -> bool:
    path = result_path(run, out)
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
        path = result_path(run, self.out)
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
            name = f"{run['variant']}, seed {run['seed']}"
            raise UserError(f"{name} failed: {reason.rstrip('.')} (see {log}).")


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
