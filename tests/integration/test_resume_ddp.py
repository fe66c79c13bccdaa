"""Two processes (gloo), killed in mid-epoch, both or one: resumed they are the two that nothing interrupts."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from interrupted import EPOCHS, STEPS, assert_same_run, final_state, fit_options, logged, saved_step
from processes import finish, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS = """
import json
import math
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


def test_one_process_becomes_two(images: Path, tmp_path: Path) -> None:
    """The rest of the schedule has half as many steps, with the learning rate of twice the batch."""
    script = tmp_path / "runs.py"
    script.write_text(RUNS)
    batch = "--data.batch_size=4"
    one = ["--trainer.devices=1", "--trainer.accelerator=cpu", batch, "--resume=auto"]
    stop = {"kind": "SIGKILL", "step": 3 * STEPS}  # in the middle of the second epoch
    rate = ["--model.lr=null", "--model.base_lr=0.64", "--model.warmup_fraction=0"]
    for options, fault, code in ((one, stop, -9), (TWO, {}, 0)):
        arguments = fit_options(images, tmp_path / "run", [*options, *rate], fault, {})
        finish(start([sys.executable, script, json.dumps([arguments])]), code=code)
    log = logged(tmp_path / "run")
    rates = [float(value) for (_, name), value in sorted(log.items()) if name == "train/lr"]
    steps, total = 2 * STEPS, EPOCHS * STEPS
    done = [s / (EPOCHS * steps) for s in range(3 * STEPS)]
    done += [(3 * STEPS // 2 + s) / total for s in range(total - 3 * STEPS // 2)]
    expected = [0.5 * (1 + math.cos(math.pi * d)) for d in done]
    expected = [0.02 * x if i < 3 * STEPS else 0.04 * x for i, x in enumerate(expected)]
    assert rates == pytest.approx(expected, rel=1e-3)
