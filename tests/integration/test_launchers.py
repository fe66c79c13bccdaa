"""Every way to start several processes trains the same weights; SIGTERM, and SLURM's requeueing."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from command_line import fit_arguments
from processes import SCRIPTS, finish, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TRAIN = EXPERIMENTS / "train.py"
OVER_TWO = ["--data.batch_size=4", "--trainer.accelerator=cpu"]


def _state(out: Path) -> dict[str, torch.Tensor]:
    paths = sorted(out.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    content = torch.load(paths[-1], weights_only=True)
    return content["state_dict"] | {"step": torch.tensor(content["global_step"])}


def _assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(value.equal(other[name]) for name, value in one.items())


def _paced(out: Path, seconds: float = 0.5) -> str:
    """A config in which each step takes some time."""
    pace = {"class_path": "fault_injection.Pace", "init_args": {"seconds": seconds}}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "pace.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [pace]}}))
    return f"--config={path}"


def test_all_launchers_train_the_same(image_folder: Path, tmp_path: Path) -> None:
    commands = {
        "ppssl": [sys.executable, "-m", "ppssl"],
        "torchrun": [SCRIPTS / "torchrun", "--standalone", "--nproc-per-node", "2", TRAIN],
        "fabric": [SCRIPTS / "fabric", "run", "--devices", "2", "--accelerator", "cpu", TRAIN],
    }
    for name, command in commands.items():
        more = [*OVER_TWO, "--trainer.devices=2"] if name == "ppssl" else OVER_TWO
        output = finish(start([*command, *fit_arguments(image_folder, tmp_path / name, *more)]))
        assert "global batch 8, 3 steps" in output, name
    states = [_state(tmp_path / name) for name in commands]
    assert states[0]["step"] == 3
    for state in states[1:]:
        _assert_same(states[0], state)


def test_bad_input_under_a_launcher_is_one_line(image_folder: Path, tmp_path: Path) -> None:
    command = [SCRIPTS / "torchrun", "--standalone", "--nproc-per-node", "2", TRAIN]
    more = [*OVER_TWO, "--data.batch_size=400"]
    output = finish(start([*command, *fit_arguments(image_folder, tmp_path, *more)]), code=1)
    assert "ppssl: `batch_size` 400 x 2 processes = 800 is larger than the data set" in output


FAKE_SRUN = """#!/usr/bin/env bash
# As SLURM's: one process a task with its numbers, and the batch job's signal goes to all of them.
trap 'kill -TERM $A $B' TERM
export SLURM_NTASKS=2 SLURM_NODEID=0 SLURM_NODELIST=127.0.0.1 SLURM_JOB_NAME=pretrain
shift
SLURM_PROCID=0 SLURM_LOCALID=0 {python} -m ppssl "$@" & A=$!
SLURM_PROCID=1 SLURM_LOCALID=1 {python} -m ppssl "$@" & B=$!
echo $$ > {pid}
code=0
for p in $A $B; do
  while kill -0 $p 2>/dev/null; do wait $p; c=$?; done
  [ $c -gt $code ] && code=$c
done
exit $code
"""


def test_a_job_that_is_terminated_is_put_back_and_goes_on(
    image_folder: Path, tmp_path: Path
) -> None:
    """The script as it is; ``srun`` and ``scontrol`` are stand-ins, and the job is started again by hand."""
    tools, pid = tmp_path / "tools", tmp_path / "srun.pid"
    tools.mkdir()
    (tools / "srun").write_text(FAKE_SRUN.format(python=sys.executable, pid=pid))
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "requeued"}\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    slurm = {"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "31"}
    slurm["PATH"] = f"{tools}:/usr/bin:/bin"

    def job(out: Path, seconds: float) -> list[object]:
        fit = fit_arguments(
            image_folder, out, *OVER_TWO, _paced(out, seconds), "--trainer.max_epochs=3"
        )
        return ["bash", EXPERIMENTS / "slurm.sh", *fit[1:]]

    finish(start(job(tmp_path / "straight", 0), **slurm))
    pid.unlink()
    process = start(job(tmp_path / "job", 1.0), **slurm)
    saved = tmp_path / "job" / "lightning_logs" / "version_31" / "checkpoints" / "last.ckpt"
    _wait_for(saved.is_file)  # an epoch is done; SLURM's job number is the version's
    os.kill(int(pid.read_text()), signal.SIGTERM)
    output = finish(process, code=143)
    assert "continues from the last checkpoint" in output
    assert "Traceback" not in output
    assert (tmp_path / "requeued").read_text() == "requeue 31\n"
    stopped = int(_state(tmp_path / "job")["step"])
    assert 3 <= stopped < 9
    output = finish(start(job(tmp_path / "job", 0), **slurm))
    assert "Resuming from" in output
    _assert_same(_state(tmp_path / "straight"), _state(tmp_path / "job"))


def _wait_for(ready: Callable[[], bool], timeout: float = 400) -> None:
    end = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)
