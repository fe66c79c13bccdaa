"""Two processes (gloo), killed in mid-epoch, both or one: resumed they are the two that nothing interrupts."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from interrupted import EPOCHS, STEPS, assert_same_run, final_state, fit_options, logged, saved_step
from processes import finish, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS = """
import json
import sys
from ppssl.cli.main import main

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        code = main(arguments)
    sys.exit(code)
"""
TWO = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--data.batch_size=4", "--resume=auto"]


def test_killed_and_resumed(images: Path, tmp_path: Path) -> None:
    script = tmp_path / "runs.py"
    script.write_text(RUNS)

    def command(*runs: tuple[str, dict[str, Any]]) -> list[object]:
        listed = [fit_options(images, tmp_path / name, TWO, fault, {}) for name, fault in runs]
        return [sys.executable, script, json.dumps(listed)]

    both = {"kind": "SIGKILL", "step": STEPS + 1}
    one = {"kind": "SIGKILL", "step": STEPS + 2, "place": "before_save", "rank": 1}
    finish(start(command(("straight", {}), ("resumed", both))), code=-9)
    assert saved_step(tmp_path / "resumed") == STEPS + 1
    # The first says what it lost, unless Lightning, which looks every five seconds, ends it before.
    output = finish(start(command(("resumed", one))), code=(1, -9))
    assert "Traceback" not in output
    assert saved_step(tmp_path / "resumed") == STEPS + 1
    finish(start(command(("resumed", {}))))
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")
    final, log = final_state(tmp_path / "straight"), logged(tmp_path / "straight")
    assert final["global_step"] == EPOCHS * STEPS
    assert (EPOCHS * STEPS - 1, "val/retrieval_map") in log
