"""Own loaders that give two processes other batches: one line in each process, where they would wait forever."""

import re
import sys

import pytest

from processes import TESTS, finish, start

pytestmark = pytest.mark.timeout(900)


def _run(kind: str, code: int | tuple[int, ...]) -> list[str]:
    """What the processes said at the end; one that has said it may be stopped by the other's end."""
    output = finish(start([sys.executable, TESTS / "unequal_batches.py", kind]), code=code)
    return re.findall(r"process \d: .*", output)


@pytest.mark.slow
def test_equal_batches_train() -> None:
    assert sorted(_run("equal", 0)) == ["process 0: 6 steps", "process 1: 6 steps"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sizes", "different numbers of images in a training batch: 4, 3"),
        pytest.param(
            "counts",
            "different numbers of training batches in an epoch: 3, 2",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "stream",
            "different numbers of training batches in an epoch: more than 2, 2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_unequal_batches_are_one_line(kind: str, message: str) -> None:
    said = _run(kind, (3, -15, 143, 1))
    assert said
    assert all(message in line for line in said), said
