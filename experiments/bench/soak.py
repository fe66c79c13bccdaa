"""A long run that is killed again and again: does it end as the run that was left alone, and does nothing grow?

    python experiments/bench/soak.py --out runs/soak --steps 2000 --kills 20 --json experiments/results/soak.json \
        --config ppssl:folder/pretrain --data.root path/to/images ...

All other options are those of ``ppssl fit``. SIGKILL comes at random moments after the first checkpoint of each start.
Memory, open files and disk are those of the run that was left alone, second half against first.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppssl.utils.results import provenance, show_table, write_json


def command(options: list[str], folder: Path, steps: int) -> list[str]:
    """``ppssl fit`` of a run, which resumes from its newest checkpoint."""
    own = [f"--trainer.default_root_dir={folder}", f"--trainer.max_steps={steps}", "--resume=auto"]
    own += [f"--checkpoint.dirpath={folder / 'checkpoints'}"]  # the same for all starts
    quiet = ["--trainer.enable_progress_bar=false", "--checkpoint.every_n_train_steps=10"]
    return [sys.executable, "-m", "ppssl", "fit", *options, *own, *quiet]


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files of a folder, which a run may just be replacing."""
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                path = Path(place, name)
                yield path, path.stat()


def newest(folder: Path) -> Path | None:
    """The newest ``last.ckpt`` of a run."""
    sizes = {path: stat.st_mtime_ns for path, stat in files(folder) if path.name == "last.ckpt"}
    return max(sizes, key=lambda path: sizes[path], default=None)


def folder_size(folder: Path) -> float:
    """Size of all files of a folder in MiB."""
    return sum(stat.st_size for _, stat in files(folder)) / 2**20


def modified(path: Path) -> int | None:
    """When a file was written; ``None`` while it is being replaced."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def usage(pid: int, folder: Path) -> dict[str, float]:
    """Resident memory in MiB, open files, and the size of the run's folder in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "open files": len(os.listdir(f"/proc/{pid}/fd")),
        "disk": folder_size(folder),
    }


def run_alone(options: list[str], folder: Path, steps: int) -> tuple[float, list[dict[str, float]]]:
    """Seconds of the run that is left alone, and its usage every two seconds."""
    began, seen = time.monotonic(), []
    with (folder.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(command(options, folder, steps), stdout=log, stderr=log)
        while process.poll() is None:
            if newest(folder) is not None:
                try:
                    seen.append(usage(process.pid, folder))
                except OSError:
                    continue  # it has just ended, or replaced a file
            time.sleep(2)
    if process.returncode:
        raise SystemExit(f"The run failed: see {folder.with_suffix('.log')}.")
    return time.monotonic() - began, seen


def run_killed(
    options: list[str], folder: Path, steps: int, kills: int, pause: float, seed: int
) -> int:
    """The same run, killed ``kills`` times; returns how often it was."""
    rng, killed = random.Random(seed), 0
    with (folder.with_suffix(".log")).open("ab") as log:
        while True:
            before = newest(folder)
            stamp = None if before is None else modified(before)
            process = subprocess.Popen(command(options, folder, steps), stdout=log, stderr=log)
            while process.poll() is None and killed < kills:
                now = newest(folder)
                if now is not None and modified(now) not in (None, stamp):
                    time.sleep(rng.uniform(0, 2 * pause))
                    break
                time.sleep(0.05)
            if killed == kills or process.poll() is not None:
                break
            process.kill()
            process.wait()
            killed += 1
        if process.wait():
            raise SystemExit(f"The run failed: see {folder.with_suffix('.log')}.")
    return killed


def different(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of the tensors that are not bitwise equal, and of other values that differ."""
    if isinstance(a, Tensor):
        return [] if isinstance(b, Tensor) and a.equal(b) else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys(), key=str)
        return [n for k in keys for n in different(a.get(k), b.get(k), f"{name}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        parts = enumerate(zip(a, b, strict=True))
        return [n for i, (x, y) in parts for n in different(x, y, f"{name}.{i}")]
    return [] if type(a) is type(b) and a == b else [name]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder of both runs.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    parser.add_argument("--json", type=Path, required=True)
    arguments, options = parser.parse_known_args()
    alone, killed = arguments.out / "alone", arguments.out / "killed"
    for folder in (alone, killed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    seconds, seen = run_alone(options, alone, arguments.steps)
    count = run_killed(
        options,
        killed,
        arguments.steps,
        arguments.kills,
        seconds / arguments.kills / 2,
        arguments.seed,
    )
    states = [torch.load(newest(path), weights_only=True) for path in (alone, killed)]
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
    unequal = [n for part in parts for n in different(states[0][part], states[1][part], part)]
    half = len(seen) // 2
    growth = {
        name: [max(row[name] for row in part) for part in (seen[:half], seen[half:])]
        for name in seen[0]
    }
    result = {
        "steps": int(states[1]["global_step"]),
        "killed": count,
        "tensors": len(states[0]["state_dict"]),
        "different": unequal,
        "largest, first and second half": growth,
        "MiB on disk, alone and killed": [folder_size(alone), folder_size(killed)],
        "seconds": seconds,
        "options": [option for option in options if "/" not in option],
    }
    write_json(arguments.json, result | {"provenance": provenance()})
    rows = [[name, f"{a:.0f}", f"{b:.0f}"] for name, (a, b) in growth.items()]
    told = (
        f"{result['steps']} steps, killed {count} times, {len(unequal)} values differ {unequal[:5]}"
    )
    show_table("Largest value", ["", "first half", "second half"], rows, caption=told)


if __name__ == "__main__":
    main()
