"""Differences paired by seed and image, and the tables made of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppssl.studies.compare import (
    Difference,
    group,
    markdown_table,
    paired_difference,
    summarise,
    table_rows,
)
from ppssl.utils.errors import UserError
from ppssl.utils.results import pack_bits


def _result(variant="base", seed=0, hits=None, **metrics):
    """Results of a run; ``hits`` are of the metric ``acc``."""
    if hits is not None:
        metrics["acc"] = float(np.mean(hits))
    per_image = {} if hits is None else {"acc": pack_bits(np.asarray(hits))}
    return {"cell": {"variant": variant, "seed": seed}, "metrics": metrics, "per_image": per_image}


def _runs(hits):
    """``(S, Q)`` hits as results by seed."""
    return {seed: _result(seed=seed, hits=row) for seed, row in enumerate(hits)}


def _hits(rng, *shape, p=0.5):
    return rng.random(shape) < p


def _half_width(difference):
    low, high = difference.interval
    return (high - low) / 2


# ---------------------------------------------------------------- the difference


@settings(max_examples=10, deadline=None)
@given(seeds=st.integers(1, 4), images=st.integers(1, 40), draw=st.integers(0, 2**32))
def test_the_difference_is_that_of_the_means_and_lies_in_its_interval(seeds, images, draw):
    rng = np.random.default_rng(draw)
    variant, baseline = _hits(rng, seeds, images, p=0.7), _hits(rng, seeds, images, p=0.4)
    found = paired_difference(_runs(variant), _runs(baseline), "acc")
    expected = np.mean([v.mean() - b.mean() for v, b in zip(variant, baseline, strict=True)])
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert found.seeds == seeds
    if seeds * images == 1:
        assert found.interval is None
        return
    low, high = found.interval
    assert low - 1e-12 <= found.mean <= high + 1e-12
    assert -1 <= low <= high <= 1


def test_equal_runs_differ_by_nothing_at_all():
    runs = _runs(_hits(np.random.default_rng(0), 3, 100))
    assert paired_difference(runs, runs, "acc") == Difference(0.0, (0.0, 0.0), 3)


def test_what_is_common_to_both_sides_cancels():
    """Both find the same images hard, and the variant is right on one more of each ten: no doubt about that."""
    easy = np.random.default_rng(0).random(2000) < 0.5
    better = easy.copy()
    better[np.flatnonzero(~easy)[:200]] = True
    found = paired_difference(_runs([better] * 3), _runs([easy] * 3), "acc")
    assert found.mean == pytest.approx(0.1)
    unpaired = np.sqrt(better.var() / 2000 + easy.var() / 2000)
    assert _half_width(found) < 0.7 * 1.96 * unpaired


def test_only_common_seeds_count():
    rng = np.random.default_rng(1)
    variant, baseline = _runs(_hits(rng, 4, 50, p=0.9)), _runs(_hits(rng, 4, 50))
    del variant[0], baseline[3]
    found = paired_difference(variant, baseline, "acc")
    assert found.seeds == 2
    assert found.mean == pytest.approx(
        np.mean([variant[s]["metrics"]["acc"] - baseline[s]["metrics"]["acc"] for s in (1, 2)])
    )
    assert paired_difference({0: variant[1]}, {1: baseline[1]}, "acc") is None


def test_the_interval_over_images_is_the_normal_one():
    """Every seed has the same hits, so images alone vary: mean plus and minus 1.96 standard errors."""
    rng = np.random.default_rng(2)
    variant, baseline = _hits(rng, 800, p=0.6), _hits(rng, 800)
    found = paired_difference(_runs([variant] * 3), _runs([baseline] * 3), "acc")
    difference = variant.astype(float) - baseline
    half = 1.96 * difference.std() / np.sqrt(800)
    assert _half_width(found) == pytest.approx(half, rel=0.1)
    assert found.interval == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.15 * half
    )


def test_the_interval_over_seeds_is_the_normal_one():
    """No hits of single images (mAP): seeds alone vary."""
    rng = np.random.default_rng(3)
    effect = rng.normal(0.02, 0.05, 40)
    variant = {s: _result(seed=s, mAP=0.5 + e) for s, e in enumerate(effect)}
    baseline = {s: _result(seed=s, mAP=0.5) for s in range(40)}
    found = paired_difference(variant, baseline, "mAP")
    assert found.mean == pytest.approx(effect.mean())
    assert _half_width(found) == pytest.approx(1.96 * effect.std() / np.sqrt(40), rel=0.12)


def test_seeds_widen_the_interval_of_images():
    """The same for all images of a seed: the interval is the seeds', however many images there are."""
    levels = np.tile([0.0, 0.0, 1.0, 1.0], 5)
    variant = _runs(np.repeat(levels[:, None], 400, axis=1))
    found = paired_difference(variant, _runs(np.zeros((20, 400))), "acc")
    assert _half_width(found) == pytest.approx(1.96 * 0.5 / np.sqrt(20), rel=0.12)


def test_for_noise_of_seed_and_image_together_the_interval_errs_on_the_wide_side():
    """Resampling rows and columns apart triples the variance of what varies with both (Owen 2007, pigeonhole)."""
    rng = np.random.default_rng(4)
    variant, baseline = _hits(rng, 60, 60), _hits(rng, 60, 60)
    found = paired_difference(_runs(variant), _runs(baseline), "acc")
    deviation = (variant.astype(float) - baseline).std() / np.sqrt(60 * 60)
    assert _half_width(found) / (1.96 * deviation) == pytest.approx(np.sqrt(3), rel=0.15)


def test_the_bootstrap_gives_the_same_interval_twice():
    rng = np.random.default_rng(5)
    variant, baseline = _runs(_hits(rng, 3, 60)), _runs(_hits(rng, 3, 60))
    assert paired_difference(variant, baseline, "acc") == paired_difference(
        variant, baseline, "acc"
    )


def test_one_seed_without_hits_of_images_has_no_interval():
    """There is nothing to resample: one of no width would look like certainty."""
    found = paired_difference({0: _result(mAP=0.5)}, {0: _result(mAP=0.25)}, "mAP")
    assert found == Difference(0.25, None, 1)


def test_hits_of_different_images_are_not_paired():
    """Different numbers of test images: the means are all that can be compared."""
    found = paired_difference({0: _result(hits=[1, 1, 0, 0])}, {0: _result(hits=[1, 0])}, "acc")
    assert found == Difference(0.0, None, 1)


def test_where_one_seed_cannot_be_paired_by_image_none_is():
    variant = {0: _result(hits=[1, 1, 1, 0]), 1: _result(hits=[1, 1])}
    baseline = {0: _result(hits=[1, 0, 0, 0]), 1: _result(hits=[1, 0, 0, 0])}
    found = paired_difference(variant, baseline, "acc")
    assert found.mean == pytest.approx((0.5 + 0.75) / 2)
    assert found.interval == pytest.approx((0.5, 0.75))


# ---------------------------------------------------------------- the summary


def _two_variants():
    rng = np.random.default_rng(6)
    hits = {"base": _hits(rng, 3, 40), "better": _hits(rng, 3, 40, p=0.9)}
    return hits, [
        _result(name, seed, row) for name, rows in hits.items() for seed, row in enumerate(rows)
    ]


def test_results_are_grouped_in_their_order():
    results = [_result("b", 1, acc=0.1), _result("a", 0, acc=0.2), _result("b", 0, acc=0.3)]
    grouped = group(results)
    assert list(grouped) == ["b", "a"]
    assert list(grouped["b"]) == [1, 0]
    assert grouped["b"][0] is results[2]


def test_mean_and_spread_are_over_seeds():
    hits, results = _two_variants()
    summary = summarise(results, metrics=["acc"])
    assert list(summary) == ["base", "better"]
    for name, rows in hits.items():
        entry = summary[name]["acc"]
        assert entry["mean"] == pytest.approx(rows.mean(axis=1).mean())
        assert entry["std"] == pytest.approx(np.std(rows.mean(axis=1), ddof=1))
        assert entry["seeds"] == 3
    expected = paired_difference(_runs(hits["better"]), _runs(hits["base"]), "acc")
    assert summary["better"]["acc"]["difference"] == expected
    assert "difference" not in summary["base"]["acc"]


def test_the_baseline_can_be_any_variant():
    _, results = _two_variants()
    forward = summarise(results, metrics=["acc"])["better"]["acc"]["difference"]
    backward = summarise(results, baseline="better", metrics=["acc"])
    assert backward["base"]["acc"]["difference"].mean == pytest.approx(-forward.mean)
    assert "difference" not in backward["better"]["acc"]


def test_a_baseline_that_was_not_run_is_refused():
    with pytest.raises(UserError, match=r"`baseline` bsae is not a variant .* one of base; better"):
        summarise(_two_variants()[1], baseline="bsae", metrics=["acc"])


def test_one_seed_has_no_spread():
    assert summarise([_result(acc=0.25)], metrics=["acc"])["base"]["acc"] == {
        "mean": 0.25,
        "std": None,
        "seeds": 1,
    }


def test_without_results_there_is_nothing_to_summarise():
    assert summarise([], metrics=["acc"]) == {}


def test_pooled_with_the_map_is_compared_with_the_own_embedding_of_a_run_without_map():
    base, iadm = _result(hits=[1, 0, 0, 1]), _result("iadm", hits=[1, 1, 0, 1])
    iadm["metrics"]["branch-acc"] = 1.0
    iadm["per_image"]["branch-acc"] = pack_bits(np.ones(4, bool))
    summary = summarise([base, iadm], metrics=["acc", "branch-acc"])
    assert "branch-acc" not in summary["base"]
    assert summary["iadm"]["acc"]["difference"].mean == pytest.approx(0.25)
    assert summary["iadm"]["branch-acc"]["difference"].mean == pytest.approx(0.5)
    assert table_rows(summary, ["acc", "branch-acc"])[1][-2:] == ["50.0", "-"]
    other = _result("other", hits=[1, 1, 1, 1]) | {"cell": {"variant": "other", "seed": 0}}
    other["metrics"]["branch-acc"] = 0.75
    other["per_image"]["branch-acc"] = pack_bits(np.array([1, 1, 1, 0], bool))
    both = summarise([iadm, other], metrics=["branch-acc"])
    assert both["other"]["branch-acc"]["difference"].mean == pytest.approx(
        -0.25
    )  # branch with branch


def test_the_table_is_markdown_in_percent():
    summary = {
        "base": {
            "acc": {"mean": 0.5, "std": 0.0125, "seeds": 3},
            "mAP": {"mean": 0.1, "std": None, "seeds": 3},
        },
        "new|b": {
            "acc": {
                "mean": 0.625,
                "std": 0.02,
                "seeds": 2,
                "difference": Difference(0.125, (-0.0104, 0.25), 2),
            },
            "mAP": {"mean": 0.2, "std": 0.003, "seeds": 2, "difference": None},
        },
        "one seed": {
            "acc": {"mean": 0.5, "std": None, "seeds": 1, "difference": None},
            "mAP": {
                "mean": 0.15,
                "std": None,
                "seeds": 1,
                "difference": Difference(0.05, None, 1),
            },
        },
    }
    assert markdown_table(table_rows(summary, ["acc", "mAP"])) == (
        "| variant | seeds | acc | mAP |\n"
        "|---|---:|---:|---:|\n"
        "| base | 3 | 50.0 ± 1.2 | 10.0 |\n"
        "| new\\|b | 2 | 62.5 ± 2.0 (+12.5 [-1.0, +25.0]) | 20.0 ± 0.3 |\n"
        "| one seed | 1 | 50.0 | 15.0 (+5.0) |\n"
    )


def test_a_metric_that_is_not_defined_in_a_run_is_left_out():
    """JSON has null for it."""
    base, variant = [_result(seed=s, mAP=0.5) for s in range(2)], []
    for s in range(2):
        variant.append(_result("other", seed=s, mAP=0.7))
    base[1]["metrics"]["mAP"] = None
    found = summarise(base + variant, metrics=["mAP"])
    assert found["base"] == {}
    assert table_rows(found, ["mAP"])[1] == ["base", "0", "-"]
    assert found["other"]["mAP"]["difference"].seeds == 1
    assert found["other"]["mAP"]["difference"].mean == pytest.approx(0.2)
