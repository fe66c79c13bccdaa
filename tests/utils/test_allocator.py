"""Freed memory is kept: the system hands out no new pages for a block as large as one that was freed."""

import os
import platform
import subprocess
import sys

import pytest

from ppssl.utils import allocator

PROGRAM = """
import resource, runpy
keep_freed_memory = runpy.run_path({path!r})["keep_freed_memory"]
kept = {call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in (3, 40, 100):  # MB; glibc's own threshold rises to 32 MB at most
    bytes([1]) * (size * 1_000_000)
    before = faults()
    for _ in range(10):
        bytes([1]) * (size * 1_000_000)
    print(kept, faults() - before)
"""


def run(call: str, **env: str) -> list[tuple[str, int]]:
    """What the program prints for each size: whether memory is kept, and the page faults of ten blocks."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    program = PROGRAM.format(call=call, path=allocator.__file__)
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, env=clean | env, check=True, capture_output=True, text=True)
    return [(flag, int(count)) for flag, count in map(str.split, out.stdout.splitlines())]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_large_blocks_take_no_new_pages() -> None:
    default, kept = run("False"), run("keep_freed_memory()")
    assert [flag for flag, _ in kept] == ["True"] * 3
    assert default[1][1] > 100  # 10 x 40 MB in pages of 2 MiB, if the system's are huge
    assert all(count < 10 for _, count in kept)


@pytest.mark.parametrize(
    "setting", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}]
)
def test_settings_of_the_environment_are_kept(setting: dict[str, str]) -> None:
    assert run("keep_freed_memory()", **setting)[0][0] == "False"
