import json
from pathlib import Path

import pytest

from ppssl.cli.main import main
from ppssl.studies.bench_step import VARIANTS, _ratios, _timed_step, bench_step


def test_json_has_ratios_times_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    args = [
        "--backbone",
        "resnet_small",
        "--batch-size",
        "4",
        "--image-size",
        "32",
        "--repeats",
        "2",
        "--variants",
        "[encoder, 'full, every 2']",
        "--json",
        str(path),
    ]
    assert main(["bench", "step", *args]) == 0
    content = json.loads(path.read_text())
    assert set(content["seconds"]) == set(content["max_rss_mib"])
    assert set(content["seconds"]) == {"encoder", "plain", "full, every 2"}
    for seconds in content["seconds"].values():
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert set(content["ratios"]) == {"encoder/plain", "full, every 2/plain"}
    assert content["ratios"]["encoder/plain"] < content["ratios"]["full, every 2/plain"]
    peaks = content["max_rss_mib"].values()
    assert len(set(peaks)) == 3  # each process's own, not what it took over from this one
    assert all(100 < mib < 100_000 for mib in peaks)


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    times = {"plain": [1.0, 1.0, 3.0], "full": [1.5, 4.5, 4.5]}
    assert _ratios(times) == {"full/plain": 1.5}  # the ratio of the medians is 4.5


def test_errors() -> None:
    with pytest.raises(ValueError, match="`repeats` must be >= 1, got 0"):
        bench_step(repeats=0)
    with pytest.raises(
        ValueError, match=r"`variants` must be one or more of encoder, plain, .*, got 'quick'"
    ):
        bench_step(variants=["quick"])


def test_every_variant_takes_a_step() -> None:
    for name in VARIANTS:
        assert _timed_step(name, backbone="resnet_small", batch_size=4, image_size=32)() > 0
