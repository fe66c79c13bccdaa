"""Programs in processes of their own, with this package and these tests on their path."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent
"""Where ``torchrun`` and ``fabric`` are."""


def environment() -> dict[str, str]:
    """One thread each; nothing that another launcher has left."""
    import ppssl

    paths = [str(TESTS), str(Path(ppssl.__file__).parents[1])]
    launched = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in launched}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def start(command: Sequence[object], **more: str) -> "subprocess.Popen[str]":
    """Begin it, in a process group of its own; ``more`` is added to its environment."""
    return subprocess.Popen(
        [str(part) for part in command],
        env=environment() | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def finish(
    process: "subprocess.Popen[str]", timeout: float = 600, code: int | tuple[int, ...] = 0
) -> str:
    """What it printed; it must end with this exit code, or one of these."""
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    assert process.returncode in ((code,) if isinstance(code, int) else code), output[-4000:]
    return output
