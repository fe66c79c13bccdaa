import json
from pathlib import Path

import pytest

from ppssl.cli import main
from ppssl.measure.bench import VARIANTS, _stepper, bench_step


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
    medians = {name: seconds["median"] for name, seconds in content["seconds"].items()}
    assert content["ratios"] == {
        f"{name}/plain": pytest.approx(median / medians["plain"])
        for name, median in medians.items()
        if name != "plain"
    }
    assert all(100 < mib < 100_000 for mib in content["max_rss_mib"].values())


def test_errors() -> None:
    with pytest.raises(ValueError, match="`repeats` must be >= 1, got 0"):
        bench_step(repeats=0)
    with pytest.raises(ValueError, match=r"`variants` must be of encoder, plain, .*, got 'quick'"):
        bench_step(variants=["quick"])


def test_every_variant_takes_a_step() -> None:
    for name in VARIANTS:
        assert _stepper(name, backbone="resnet_small", batch_size=4, image_size=32)() > 0
