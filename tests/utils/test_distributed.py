"""Several processes end as they should."""

import os
import sys
from pathlib import Path

import pytest

from processes import finish, start

SCRIPT = Path(__file__).parents[1] / "idle_gloo.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's scheduler")
def test_a_finished_process_does_not_abort() -> None:
    finish(start([sys.executable, SCRIPT, "8"]))
