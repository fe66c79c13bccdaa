"""A disk that is really full: a file system of a few hundred KiB, in a mount namespace of its own."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from interrupted import EPOCHS, STEPS, assert_same_run, checkpoints, run_child, run_here, saved_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Disk:
    """A file system of so many bytes that this machine's others do not see, for as long as a process holds it.

    Attributes:
        folder: Where it is for who is :attr:`inside`.
        inside: What to begin a command with.
        seen: The same folder, to look at it from outside.
    """

    def __init__(self, folder: Path, size: int) -> None:
        script = f"mount -t tmpfs -o size={size} ppssl {folder} && echo mounted && exec cat"
        pipe = subprocess.PIPE
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdin=pipe, stdout=pipe, text=True
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != "mounted\n":
            pytest.skip("mounting in a namespace is not allowed here")
        self.folder = folder
        self.inside = ["nsenter", "--mount", "--target", str(self.holder.pid)]
        self.seen = Path(f"/proc/{self.holder.pid}/root{folder}")

    def enlarge(self, size: int) -> None:
        """To so many bytes."""
        subprocess.run(
            [*self.inside, "mount", "-o", f"remount,size={size}", self.folder], check=True
        )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Makes one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("mounting in a namespace needs `unshare` and `nsenter` (util-linux)")
    (tmp_path / "disk").mkdir()
    disks: list[Disk] = []

    def mount(size: int) -> Disk:
        disks.append(Disk(tmp_path / "disk", size))
        return disks[-1]

    yield mount
    for made in disks:
        made.holder.communicate()  # `cat` ends with its input, and the mount with it


def _size(straight: Path) -> int:
    return checkpoints(straight)[-1].stat().st_size


def _the_line(stderr: str) -> str:
    assert "Traceback" not in stderr, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("ppssl: ")]
    assert "No space left" in line
    assert "--resume auto" in line
    return line


def test_by_the_runs_own_checkpoints(
    disk: Callable[[int], Disk], images: Path, straight: Path
) -> None:
    """It keeps every epoch's, until there is no room for one more: twice, as room is made for one only."""
    small = disk(int(4.5 * _size(straight)))
    run = partial(run_child, images, small.folder, inside=small.inside)
    steps = []
    for _ in range(2):
        done = run("--checkpoint.save_top_k=-1")
        assert done.returncode == 2, done.stderr[-3000:]
        assert ".ckpt" in _the_line(done.stderr)
        assert not list(small.seen.rglob("*.part"))
        torch.load(checkpoints(small.seen)[-1], weights_only=True)
        steps.append(saved_step(small.seen))
        min(small.seen.rglob("epoch=*.ckpt"), key=lambda path: path.stat().st_mtime).unlink()
    assert STEPS <= steps[0] < steps[1] < EPOCHS * STEPS
    small.enlarge(40 * _size(straight))
    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(straight, small.seen)


LOGGERS = {"csv": [], "tensorboard": ["--trainer.logger=true"]}


@pytest.mark.parametrize("logger", LOGGERS.values(), ids=LOGGERS)
def test_in_the_middle_of_the_log(
    logger: list[str], disk: Callable[[int], Disk], images: Path, tmp_path: Path
) -> None:
    """Another program fills it; what fails first is the log, as checkpoints are rare."""
    more = [
        *logger,
        "--checkpoint.every_n_train_steps=1000",
        "--trainer.callbacks+=fault_injection.Wide",
    ]
    assert run_here(images, tmp_path / "straight", *more) == 0
    small = disk(20 * _size(tmp_path / "straight"))
    run = partial(run_child, images, small.folder, *more, inside=small.inside)
    done = run(fault={"kind": f"fill {small.folder}", "step": STEPS + 1})
    assert done.returncode == 2, done.stderr[-3000:]
    assert ".ckpt" not in _the_line(done.stderr)
    assert saved_step(small.seen) == STEPS
    (small.seen / "ballast").unlink()
    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(tmp_path / "straight", small.seen)
