import json
from pathlib import Path

import pytest

from ppssl.cli import main
from ppssl.measure.bench import VARIANTS, bench_step


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
        "--json",
        str(path),
    ]
    assert main(["bench", "step", *args]) == 0
    content = json.loads(path.read_text())
    assert set(content["seconds"]) == set(content["max_rss_mib"]) == set(VARIANTS)
    for seconds in content["seconds"].values():
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    medians = {name: seconds["median"] for name, seconds in content["seconds"].items()}
    assert content["ratios"] == {
        "encoder/plain": pytest.approx(medians["encoder"] / medians["plain"])
    }
    assert all(100 < mib < 100_000 for mib in content["max_rss_mib"].values())


def test_errors() -> None:
    with pytest.raises(ValueError, match="`repeats` must be >= 1, got 0"):
        bench_step(repeats=0)
