"""Two hosts, as network namespaces joined by one cable: a run across both, the cable cut in mid-epoch, and on again."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from command_line import fit_arguments
from processes import SCRIPTS, finish, start

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"
TIMEOUT = 20
"""Seconds that a process waits for another one."""


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


def _why_not() -> str:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip` (iproute2)"
    name = f"ppssl-try-{os.getpid()}"
    if _ip("netns", "add", name).returncode:
        return "network namespaces are not allowed here"
    _ip("netns", "del", name)
    return ""


pytestmark = [pytest.mark.slow, pytest.mark.netns, pytest.mark.timeout(900)]


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two namespaces with 10.77.0.1 and 10.77.0.2 at the ends of a veth pair named ``cable``."""
    if reason := _why_not():
        pytest.skip(reason)
    names = [f"ppssl-{end}-{os.getpid()}" for end in "ab"]
    steps = [["netns", "add", name] for name in names]
    steps.append(f"link add cable netns {names[0]} type veth peer cable netns {names[1]}".split())
    for i, name in enumerate(names, 1):
        steps.append(f"-n {name} addr add 10.77.0.{i}/24 dev cable".split())
        steps += [f"-n {name} link set {device} up".split() for device in ("lo", "cable")]
    try:
        for step in steps:
            done = _ip(*step)
            assert done.returncode == 0, done.stderr
        yield names
    finally:
        for name in names:
            _ip("netns", "del", name)


def _run(
    hosts: list[str], images: Path, out: Path, *, pace: float, port: int
) -> list["subprocess.Popen[str]"]:
    """`torchrun` of the same command line on both hosts, one process each."""
    out.mkdir(parents=True, exist_ok=True)
    slow = {"class_path": "fault_injection.Pace", "init_args": {"seconds": pace}}
    (out / "pace.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [slow]}}))
    more = [
        f"--config={out / 'pace.yaml'}",
        "--data.batch_size=4",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=3",
        "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy",
        f"--trainer.strategy.timeout=00:00:{TIMEOUT}",
        "--checkpoint.every_n_train_steps=1",
        "--resume=auto",
    ]
    fit = fit_arguments(images, out, *more)
    several = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "10.77.0.1"]
    command = [SCRIPTS / "torchrun", *several, "--master-port", port]
    return [
        start(
            ["ip", "netns", "exec", host, *command, "--node-rank", rank, TRAIN, *fit],
            GLOO_SOCKET_IFNAME="cable",
        )
        for rank, host in enumerate(hosts)
    ]


def _newest(out: Path) -> dict[str, torch.Tensor]:
    paths = sorted(out.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    content = torch.load(paths[-1], weights_only=True)
    return content["state_dict"] | {"step": torch.tensor(content["global_step"])}


def test_a_run_across_both_is_cut_off_and_goes_on(
    hosts: list[str], image_folder: Path, tmp_path: Path
) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    for process in _run(hosts, image_folder, straight, pace=0, port=29501):
        finish(process)
    expected = _newest(straight)
    assert expected["step"] == 9

    processes = _run(hosts, image_folder, cut, pace=1, port=29502)
    end = time.monotonic() + 400
    while not any(int(_newest(cut)["step"]) in (4, 5) for _ in cut.rglob("last.ckpt")):
        assert time.monotonic() < end  # until the second epoch is under way
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    assert _ip("-n", hosts[0], "link", "set", "cable", "down").returncode == 0
    began = time.monotonic()
    for process in reversed(processes):
        output = finish(process, timeout=6 * TIMEOUT, code=1)
        assert "ppssl: Lost another process: " in output, output
        assert "`--resume auto`, which continues from the last checkpoint" in output
    assert time.monotonic() - began < 6 * TIMEOUT
    assert 4 <= int(_newest(cut)["step"]) < 9

    assert _ip("-n", hosts[0], "link", "set", "cable", "up").returncode == 0
    for process in _run(hosts, image_folder, cut, pace=0, port=29503):
        finish(process)
    got = _newest(cut)
    assert expected.keys() == got.keys()
    assert all(value.equal(got[name]) for name, value in expected.items())
