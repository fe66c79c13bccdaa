import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import error_line
from ppssl import IADM
from ppssl.cli.main import main
from ppssl.studies import step_variants
from ppssl.studies.bench_step import bench_step
from ppssl.studies.peers import PEERS
from ppssl.studies.step_variants import VARIANTS, StepSettings, make_step

SMALL: dict[str, Any] = {"backbone": "resnet_small", "batch_size": 4, "image_size": 32}
SMALL_ARGS = ["--backbone", "resnet_small", "--batch-size", "4", "--image-size", "32"]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank of few images: the temperature of 4,096 takes a second to find."""
    monkeypatch.setattr(step_variants, "NUM_IMAGES", 64)


def test_json_has_ratios_and_times(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    args = ["--repeats", "2", "--variants", "[encoder, 'full, every 1']", "--peer", "torch"]
    args += ["--memory", "false", "--json", str(path)]
    assert main(["bench", "step", *SMALL_ARGS, *args]) == 0
    content = json.loads(path.read_text())
    assert set(content["seconds"]) == {"encoder", "plain", "full, every 1", "torch"}
    for name, seconds in content["seconds"].items():
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert content["images_per_second"][name] == pytest.approx(4 / seconds["median"])
    ours = ("encoder", "plain", "full, every 1")
    assert set(content["ratios"]) == {
        *(f"{name}/plain" for name in ("encoder", "full, every 1", "torch")),
        *(f"{name}/torch" for name in ours),
    }
    assert content["ratios"]["encoder/plain"] < content["ratios"]["full, every 1/plain"]
    assert "max_rss_mib" not in content


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["encoder,ais"], ["encoder", "plain", "ais"]),
        (["encoder", "ais"], ["encoder", "plain", "ais"]),
        (["[encoder, ais]"], ["encoder", "plain", "ais"]),
        (["encoder, full, every 1"], ["encoder", "plain", "full, every 1"]),
        (
            ["full, every 1", "full,every 2,full"],
            ["plain", "full", "full, every 1", "full, every 2"],
        ),
        (["plain,frozen"], ["plain", "plain, frozen"]),
        ([], ["plain"]),
    ],
)
def test_variants_are_named_with_commas_or_without(
    words: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []
    monkeypatch.setattr("ppssl.studies.bench_step.make_step", lambda name, _: timed.append(name))
    monkeypatch.setattr("ppssl.studies.bench_step._timed_steps", _stop_after(expected, timed))
    with pytest.raises(_StopError):
        main(["bench", "step", *SMALL_ARGS, "--peer", "--variants", *words, "--debug"])
    assert timed == expected


class _StopError(Exception):
    """All variants were asked for."""


def _stop_after(expected: list[str], timed: list[str]) -> Any:
    def stop(*_: Any) -> None:
        if len(timed) >= len(expected):
            raise _StopError

    return stop


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ais,quick", "must be one or more of encoder; plain; ais; .*, got 'quick'"),
        ("[ais", r"must be names such as `ais full`, or a list .*, got '\[ais'"),
    ],
)
def test_what_is_no_variant_is_one_line(word: str, message: str, capsys: Any) -> None:
    assert main(["bench", "step", *SMALL_ARGS, "--variants", word]) == 2
    assert re.search(message, error_line(capsys))


@pytest.mark.slow
def test_memory_is_that_of_a_process_per_variant(capsys: Any) -> None:
    content = bench_step(**SMALL, repeats=1, variants=["encoder"], peers=[])
    peaks = content["max_rss_mib"]
    assert set(peaks) == {"encoder", "plain"}
    assert len(set(peaks.values())) == 2  # each process's own, not what it took over from this one
    assert all(100 < mib < 100_000 for mib in peaks.values())


def test_by_default_full_and_plain_are_compared_with_lightly(tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    path = tmp_path / "step.json"
    args = [*SMALL_ARGS, "--repeats", "1", "--memory", "false", "--json", str(path)]
    assert main(["bench", "step", *args]) == 0
    content = json.loads(path.read_text())
    assert {"full/plain", "plain/lightly", "full/lightly"} <= set(content["ratios"])
    assert set(content["seconds"]) == {"encoder", "plain", "ais", "iadm", "full", "lightly"}


def test_peers_in_both_memory_formats_and_bf16() -> None:
    results = bench_step(
        **SMALL,
        repeats=1,
        variants=[],
        peers=["torch"],
        channels_last_peers=True,
        precision="bf16-mixed",
        queue_size=30,
        memory=False,
    )
    assert set(results["seconds"]) == {"plain", "torch", "torch, channels_last"}
    assert results["arguments"]["precision"] == "bf16-mixed"
    assert results["arguments"]["queue_size"] == 28  # whole batches
    assert {"plain/torch", "plain/torch, channels_last"} <= set(results["ratios"])


def test_without_lightly_it_is_left_out_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        step_variants.importlib.util,
        "find_spec",
        lambda name: None if name == "lightly" else find_spec(name),
    )
    results = bench_step(**SMALL, repeats=1, variants=[], memory=False)
    assert set(results["seconds"]) == {"plain"}
    assert main(["bench", "step", *SMALL_ARGS, "--peer", "lightly"]) == 2
    assert "needs the package lightly" in error_line(capsys)


def test_errors(capsys: Any) -> None:
    with pytest.raises(ValueError, match="`repeats` must be >= 1, got 0"):
        bench_step(repeats=0)
    with pytest.raises(ValueError, match="`steps` must be >= 1, got 0"):
        bench_step(steps=0)
    with pytest.raises(ValueError, match="`queue_size` must be >= 1, got 0"):
        bench_step(queue_size=0)
    with pytest.raises(
        ValueError, match=r"`variants` must be one or more of encoder; plain; .*, got 'quick'"
    ):
        bench_step(variants=["quick"])
    with pytest.raises(ValueError, match="`peer` must be one or more of lightly, torch, got 'x'"):
        bench_step(peers=["x"])
    with pytest.raises(ValueError, match="`precision` must be one of 32-true, bf16-mixed"):
        bench_step(precision="16-mixed")  # type: ignore[arg-type]
    assert main(["bench", "step", "--backbone", "resnt50", "--peer"]) == 2
    assert "timm has no model `resnt50`" in error_line(capsys)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_takes_a_period_of_steps(name: str) -> None:
    step = make_step(name, StepSettings(**SMALL, queue_size=64))
    assert step.period == (VARIANTS[name].every or 1)
    for number in range(step.period):
        step.run(number)


def test_full_is_the_default_of_both_plugins() -> None:
    plugins = VARIANTS["full"].plugins()
    assert set(plugins) == {"ais", "iadm"}
    iadm = plugins["iadm"]
    assert isinstance(iadm, IADM)
    assert iadm.every == IADM().every
    numbers = range(2 * iadm.every)
    assert sum(iadm.needs_image_gradient(0.5, n) for n in numbers) == 2


@pytest.mark.parametrize("name", PEERS)
def test_peers_train_and_their_key_encoder_follows(name: str) -> None:
    if name == "lightly":
        pytest.importorskip("lightly")
    torch.manual_seed(0)
    model = PEERS[name]("resnet_small", 8, 32).train()
    views = torch.randn(2, 4, 3, 32, 32)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    weight, key_weight = (next(m.parameters()) for m in (model.encoder, model.key_encoder))
    model(*views).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    torch.testing.assert_close(key_weight, weight.detach(), rtol=0, atol=1e-6)
    before = key_weight.clone()
    optimizer.step()
    assert not torch.equal(weight, before)
    model(*views)
    torch.testing.assert_close(key_weight, (0.999 * before + 0.001 * weight).detach())
