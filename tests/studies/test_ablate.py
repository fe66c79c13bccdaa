"""Ablation studies: their runs, which of them are repeated, and the messages of failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from ppssl import load_encoder
from ppssl.inference.embed import fingerprint
from ppssl.studies.ablate import ablate
from ppssl.studies.compare import summarise
from ppssl.studies.lightning_cli import build_recipe
from ppssl.studies.option_checks import check_options
from ppssl.studies.single_run import QUIET, execute_run
from ppssl.studies.study import Study, load_study
from ppssl.utils.errors import UserError
from ppssl.utils.paths import only_writer
from ppssl.utils.results import unpack_bits

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPE = EXPERIMENTS / "synthetic" / "pretrain.yaml"
RESULTS = EXPERIMENTS / "results"
TINY = {
    "data.train_size": 48,
    "data.test_size": 24,
    "data.num_classes": 4,
    "data.render_size": 32,
    "data.image_size": 32,
    "data.batch_size": 16,
    "data.num_workers": 0,
    "trainer.max_epochs": 1,
    "trainer.accelerator": "cpu",
    "model.backbone_kwargs": {"width": 4},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("trainer: {max_epochs: 1}\n")
    return path


def _keys(study):
    return [run["key"] for run in study.runs()]


def _write(run, out, **changes):
    """Write the results of a finished run."""
    path = out / run["variant"] / f"seed{run['seed']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cell": run | changes, "metrics": {"acc": 0.5}}))
    return path


# ---------------------------------------------------------------- runs


def test_the_runs_are_variants_times_grid_times_seeds(recipe):
    study = Study(
        str(recipe),
        variants={"base": {}, "wide": {"model.width": 8}},
        seeds=[3, 5],
        overrides={"trainer.max_epochs": 2},
        grid={"model.lr": [0.1, 0.2], "data.size": [1, 2, 3]},
    )
    runs = study.runs()
    assert len(runs) == 2 * 2 * 2 * 3
    assert len({run["key"] for run in runs}) == len(runs)
    assert len({(run["variant"], run["seed"]) for run in runs}) == len(runs)
    found = {(run["variant"], run["seed"]): run["overrides"] for run in runs}
    assert found["wide,lr=0.2,size=3", 5] == {
        "trainer.max_epochs": 2,
        "model.width": 8,
        "model.lr": 0.2,
        "data.size": 3,
    }
    assert found["base,lr=0.1,size=1", 3] == {
        "trainer.max_epochs": 2,
        "model.lr": 0.1,
        "data.size": 1,
    }


def test_all_variants_of_a_seed_come_before_the_next_seed(recipe):
    """An interrupted grid then holds whole comparisons."""
    runs = Study(str(recipe), variants={"a": {}, "b": {"x": 1}}, seeds=[0, 1]).runs()
    assert [(run["seed"], run["variant"]) for run in runs] == [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (1, "b"),
    ]


def test_by_default_it_is_the_recipe_with_three_seeds(recipe):
    runs = Study(str(recipe)).runs()
    assert [(run["variant"], run["seed"], run["overrides"]) for run in runs] == [
        ("base", s, {}) for s in (0, 1, 2)
    ]


def test_the_more_particular_override_wins(recipe):
    study = Study(
        str(recipe),
        variants={"v": {"a": 2, "b": 2}},
        seeds=[0],
        overrides={"a": 1, "b": 1, "c": 1},
        grid={"b": [3]},
    )
    assert study.runs()[0]["overrides"] == {"a": 2, "b": 3, "c": 1}


def test_the_key_depends_on_what_a_run_depends_on(recipe):
    base = _keys(Study(str(recipe), seeds=[0]))
    assert _keys(Study(str(recipe), seeds=[0])) == base
    assert _keys(Study(str(recipe), variants={"other name": {}}, seeds=[0])) == base
    assert _keys(Study(str(recipe), seeds=[1])) != base
    assert _keys(Study(str(recipe), seeds=[0], overrides={"a": 1})) != base
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert _keys(Study(str(recipe), seeds=[0], overrides=one)) == _keys(
        Study(str(recipe), seeds=[0], overrides=other)
    )


def test_an_override_that_says_what_the_recipe_says_makes_no_other_run(tmp_path):
    recipe = RECIPE
    content = yaml.safe_load(recipe.read_text())
    changed = tmp_path / "changed.yaml"
    content["model"]["init_args"]["lr"] = 0.5
    changed.write_text(yaml.safe_dump(content))
    assert _keys(Study(str(recipe), overrides={"model.lr": 0.5})) == _keys(Study(str(changed)))
    assert _keys(Study(str(recipe), overrides={"model.lr": 0.4})) != _keys(Study(str(changed)))
    content["model"]["init_args"]["backbone_kwargs"] = {"width": 5, "depth": 2}
    changed.write_text(yaml.safe_dump(content))
    one = {"model.lr": 0.5, "model.backbone_kwargs": {"width": 5}}  # replaces: no depth is left
    other = {"model.lr": 0.5, "model.backbone_kwargs": {"width": 5, "depth": 2}}
    assert _keys(Study(str(changed), overrides=one)) != _keys(Study(str(changed)))
    assert _keys(Study(str(recipe), overrides=other)) == _keys(Study(str(changed)))


def test_the_key_depends_on_what_the_recipe_says_and_not_on_where_it_lies(recipe, tmp_path):
    base = _keys(Study(str(recipe), seeds=[0]))
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.read_text())
    assert _keys(Study(str(copy), seeds=[0])) == base
    copy.write_text("trainer: {max_epochs: 2}\n")
    assert _keys(Study(str(copy), seeds=[0])) != base


def test_a_recipe_that_travels_with_the_package_can_be_named():
    assert _keys(Study("ppssl:synthetic/pretrain")) == _keys(Study(str(RECIPE)))
    with pytest.raises(
        UserError,
        match=r"No such recipe: ppssl:synthetic/pretrian \(did you mean ppssl:synthetic/pretrain",
    ):
        Study("ppssl:synthetic/pretrian").runs()


# ---------------------------------------------------------------- studies from files


def _study(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return str(path)


def test_a_study_is_read_from_yaml(tmp_path, recipe):
    text = (
        f"recipe: {recipe}\nvariants:\n  a: {{}}\n  b: {{model.lr: 0.1}}\nseeds: [4]\n"
        "overrides: {x: [1, 2]}\ngrid: {y: [1, 2]}\nbaseline: b,y=1\n"
    )
    assert load_study(_study(tmp_path, text)) == Study(
        str(recipe), {"a": {}, "b": {"model.lr": 0.1}}, [4], {"x": [1, 2]}, {"y": [1, 2]}, "b,y=1"
    )
    assert load_study(_study(tmp_path, f"recipe: {recipe}")) == Study(str(recipe))
    with pytest.raises(UserError, match=r"r\.yaml"):
        load_study(_study(tmp_path, "recipe: r.yaml"))


SMALL = "ppssl:synthetic/pretrain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "recipe: r\nvariant: {a: {}}",
            r"study\.yaml is not a study \(unknown key variant\): its keys are baseline, grid, overrides",
        ),
        ("variants: {a: {}}", r"is not a study \(no `recipe`\)"),
        ("- recipe: r", r"is not a study \(not a mapping\)"),
        ("", r"is not a study \(not a mapping\)"),
        ("recipe: [", r"study\.yaml is not valid YAML: "),
        ("recipe: r\nseeds: 3", r"`seeds` must be a list, got 3"),
        (
            "recipe: r\nvariants: [a, b]",
            r"`variants` must be a mapping \(\{\} for none\), got \['a', 'b'\]",
        ),
        (
            "recipe: r\nvariants:\n  base:\n",
            r"`variants\.base` must be a mapping \(\{\} for none\), got None",
        ),
        ("recipe: r\noverrides: [a]", r"`overrides` must be a mapping"),
        ("recipe: r\ngrid: {model.lr: 0.1}", r"`grid\.model\.lr` must be a list, got 0\.1"),
        (
            "recipe: r\ngrid: {model.optimizer: sgd}",
            r"`grid\.model\.optimizer` must be a list, got 'sgd'",
        ),
        (f"recipe: {SMALL}\nseeds: []", "it has no runs: `seeds`"),
        (f"recipe: {SMALL}\ngrid: {{model.lr: []}}", "it has no runs: `seeds`"),
        (f"recipe: {SMALL}\nseeds: [zero]", "`seeds` must be whole numbers .* got 'zero'"),
        (f"recipe: {SMALL}\nseeds: [true]", "`seeds` must be whole numbers .* got True"),
        (f"recipe: {SMALL}\nseeds: [0, 1, 0]", "`seeds` has a number twice"),
        (f"recipe: {SMALL}\nvariants: {{1: {{}}}}", "names of `variants` must be text, got 1"),
        (
            f"recipe: {SMALL}\nvariants: {{a: {{}}}}\nbaseline: b",
            "`baseline` 'b' is not one of the var",
        ),
        (
            f"recipe: {SMALL}\nvariants: {{a/b: {{}}, a_b: {{model.lr: 1}}}}",
            "`a/b` and `a_b` would write to the same folder",
        ),
        ("recipe: [r]", r"`recipe` must be text, got \['r'\]"),
        ("recipe:", "`recipe` must be text, got None"),
        (f"recipe: {SMALL}\nbaseline: 3", "`baseline` must be text, got 3"),
        (f"recipe: {SMALL}\nvariants: {{a: {{3: 1}}}}", "names of options must be text, got 3"),
        (f"recipe: {SMALL}\ngrid: {{3: [1]}}", "names of options must be text, got 3"),
        (f"recipe: {SMALL}\noverrides: {{3: 1}}", "names of options must be text, got 3"),
        (f"recipe: {SMALL}\ngrid: {{model.lr: [2024-01-01]}}", "date .* write it in quotes"),
        (f"recipe: {SMALL}\nvariants: {{a: {{model.x: {{y: 2024-01-01}}}}}}", "write it in quotes"),
        (f"recipe: {SMALL}\nvariants: {{..: {{}}}}", r"'\.\.' cannot be one: give it 1 to 200"),
        (f"recipe: {SMALL}\nvariants: {{'': {{}}}}", "'' cannot be one: give it 1 to 200"),
        (f"recipe: {SMALL}\nvariants: {{{'x' * 300}: {{}}}}", "cannot be one: give it 1 to 200"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_study(_study(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_study_is_named_with_the_nearest(tmp_path):
    _study(tmp_path, "recipe: r")
    with pytest.raises(
        UserError, match=r"No such config: .*stduy\.yaml \(did you mean study\.yaml\?\)"
    ):
        load_study(str(tmp_path / "stduy.yaml"))


# ---------------------------------------------------------------- what is run


def test_what_is_done_is_not_run_again(tmp_path, recipe):
    """The recipe could not be run at all: that would raise."""
    study = Study(str(recipe), variants={"a": {}, "b": {"no.such": 1}}, seeds=[1, 0])
    paths = [_write(run, tmp_path / "out") for run in study.runs()]
    written = [path.stat().st_mtime_ns for path in paths]
    results = ablate(study, tmp_path / "out", work=tmp_path / "work")
    assert [(r["cell"]["variant"], r["cell"]["seed"]) for r in results] == [
        ("a", 1),
        ("b", 1),
        ("a", 0),
        ("b", 0),
    ]
    assert [path.stat().st_mtime_ns for path in paths] == written
    assert not (tmp_path / "work").exists()


def test_this_machines_overrides_do_not_tell_runs_apart(tmp_path, recipe):
    study = Study(str(recipe), seeds=[0])
    _write(study.runs()[0], tmp_path / "out")
    for local in ((), ("--data.root=/elsewhere",)):
        assert len(ablate(study, tmp_path / "out", work=tmp_path / "work", local=local)) == 1


def test_a_damaged_result_is_refused_before_anything_is_run(tmp_path, recipe):
    study = Study(str(recipe), seeds=[0])
    path = tmp_path / "out" / "base" / "seed0.json"
    path.parent.mkdir(parents=True)
    for text in ("", '{"cell":', "[]", "{}"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"seed0\.json is no result of a run, or is damaged"):
            ablate(study, tmp_path / "out", work=tmp_path / "work")


def test_a_result_of_other_settings_is_refused_before_anything_is_run(tmp_path, recipe):
    study = Study(str(recipe), variants={"a": {}, "b": {"no.such": 1}}, seeds=[0])
    _write(study.runs()[1], tmp_path / "out", key="another")
    with pytest.raises(
        UserError, match=r"b/seed0\.json is from another recipe or other overrides: remove it"
    ):
        ablate(study, tmp_path / "out", work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_jobs_must_be_positive(tmp_path, recipe):
    with pytest.raises(ValueError, match="`jobs` must be >= 1, got 0"):
        ablate(Study(str(recipe)), tmp_path, jobs=0)


@pytest.mark.slow
def test_a_grid_is_run_once_and_leaves_its_results(tmp_path):
    study = Study(
        str(RECIPE), variants={"base": {}, "slow": {"model.lr": 1e-5}}, seeds=[3], overrides=TINY
    )
    out, work = tmp_path / "out", tmp_path / "work"
    results = ablate(study, out, jobs=2, work=work, local=["--trainer.log_every_n_steps=7"])
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.json")) == [
        "base/seed3.json",
        "slow/seed3.json",
    ]
    for result, run in zip(results, study.runs(), strict=True):
        assert result["cell"] == run
        assert result["seed"] == 3
        assert {"knn-1", "linear", "rank-1", "mAP"} <= set(result["metrics"])
        assert all(0 <= result["metrics"][m] <= 1 for m in ("knn-1", "linear", "rank-1", "mAP"))
        assert set(result["units"]) == set(result["metrics"])
        assert result["per_image"]["knn-1"].startswith("24:")
        assert result["config"]["data"]["init_args"]["train_size"] == 48
        assert result["config"]["model"]["init_args"]["backbone_kwargs"] == {"width": 4}
        assert result["cost"]["cpu_seconds"] > 0
        assert result["provenance"]["versions"]["torch"]
        # This machine's own is not written down.
        assert "log_every_n_steps" not in json.dumps(result)
    rates = [result["config"]["model"]["init_args"]["lr"] for result in results]
    own = yaml.safe_load(RECIPE.read_text())["model"]["init_args"]["lr"]
    assert rates == [own, 1e-5]
    written = {path: path.stat().st_mtime_ns for path in [*out.rglob("*.json"), *work.rglob("*")]}
    assert ablate(study, out, jobs=2, work=work) == results
    assert {
        path: path.stat().st_mtime_ns for path in [*out.rglob("*.json"), *work.rglob("*")]
    } == written


@pytest.mark.slow
def test_a_run_with_iadm_is_measured_by_its_branch_too(tmp_path):
    study = Study(
        str(RECIPE),
        variants={"base": {}, "iadm": {"model.plugins.iadm.hidden": 4}},
        seeds=[0],
        overrides=TINY,
    )
    plain, other = study.runs()
    for run, name in ((plain, "base.json"), (other, "iadm.json")):
        execute_run(
            run, str(tmp_path / name), [f"--trainer.default_root_dir={tmp_path / name}.work"]
        )
    base, iadm = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("base", "iadm"))
    own = {"knn-1", "knn-5", "knn-20", "linear", "rank-1", "rank-5", "mAP"}
    added = {f"branch-{name}" for name in own}
    assert not any("branch" in name or "health" in name for name in base["metrics"])
    health = {name for name in iadm["metrics"] if name.startswith("health-")}
    assert {"health-skill", "health-part_energy", "health-branch_part_energy"} <= health
    assert set(iadm["metrics"]) == set(base["metrics"]) | added | health
    assert set(iadm["units"]) == set(iadm["metrics"])
    assert set(iadm["intervals"]) == set(base["intervals"]) | added
    means = {"branch-mAP", "branch-rank-5"}
    assert set(iadm["per_image"]) == set(base["per_image"]) | added - means
    assert set(iadm["config"]) == set(base["config"]) == {"model", "data"}
    for name in own - {"mAP", "rank-1", "rank-5"}:  # these count only images that others are like
        hits = unpack_bits(iadm["per_image"][f"branch-{name}"])
        assert len(hits) == TINY["data.test_size"]
        assert iadm["metrics"][f"branch-{name}"] == pytest.approx(hits.mean())
    assert iadm["metrics"]["branch-mAP"] != iadm["metrics"]["mAP"]


@pytest.mark.slow
def test_a_failing_run_is_named_with_the_reason_and_the_others_go_on(tmp_path):
    small = {"bad": {"data.train_size": 8}, "good": {}}
    study = Study(str(RECIPE), variants=small, seeds=[0], overrides=TINY)
    with pytest.raises(
        UserError, match=r"bad, seed 0 failed: .*`batch_size` 16 is larger than the data set of 8"
    ) as error:
        ablate(study, tmp_path / "out", work=tmp_path / "work")
    log = tmp_path / "work" / "bad" / "seed0" / "log.txt"
    assert f"(see {log}). 1 of 2 runs failed." in str(error.value)
    assert [path.parent.name for path in (tmp_path / "out").rglob("*.json")] == ["good"]


@pytest.mark.slow
def test_a_failing_run_says_what_ppssl_fit_says(tmp_path):
    study = _open_study("ppssl:synthetic/finetune", seeds=[0], overrides=TINY)
    study.variants.pop("random")
    local = ["--model.pretrained=no/seed{seed}.ckpt"]
    with pytest.raises(UserError) as error:
        ablate(study, tmp_path / "out", work=tmp_path / "work", local=local)
    assert str(error.value) == (
        "pretrained, seed 0 failed: `pretrained`: no such file: no/seed0.ckpt "
        f"(see {tmp_path / 'work' / 'pretrained' / 'seed0' / 'log.txt'}). 1 of 1 runs failed."
    )


def test_one_process_at_a_time_uses_a_work_folder(tmp_path):
    study = Study(str(RECIPE), seeds=[0], overrides=TINY)
    work = tmp_path / "work"
    with only_writer(work), pytest.raises(UserError, match=r"Another process is writing .*work"):
        ablate(study, tmp_path / "out", work=work)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_ended_from_outside_it_ends_its_runs(tmp_path, sent):
    study = tmp_path / "study.yaml"
    longer = TINY | {"trainer.max_epochs": 100_000}
    study.write_text(yaml.safe_dump({"recipe": str(RECIPE), "seeds": [0], "overrides": longer}))
    out, work = tmp_path / "out", tmp_path / "work"
    command = ["ablate", str(study), "--out", str(out), "--work", str(work)]
    # A shell's background jobs ignore SIGINT, and so would their children.
    process = subprocess.Popen(
        [sys.executable, "-m", "ppssl", *command],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 400
    log = work / "base" / "seed0" / "log.txt"
    while not (log.is_file() and "Learning rate" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(sent)
    try:
        err = process.communicate(timeout=400)[1]
    finally:
        process.kill()
    assert process.returncode == (143 if sent == signal.SIGTERM else 130)
    assert b"Traceback" not in err
    running = subprocess.run(["pgrep", "-f", str(out)], capture_output=True, check=False)
    assert running.stdout == b""


# ---------------------------------------------------------------- what a study leaves open


def _open_study(recipe, **kwargs):
    variants = {"random": {}, "pretrained": {"model.pretrained": "given"}}
    return Study(str(recipe), variants=variants, **kwargs)


def test_what_a_study_leaves_open_is_asked_for_before_anything_is_run(tmp_path, recipe):
    with pytest.raises(UserError, match=r"variant `pretrained` needs `--model.pretrained=...`"):
        ablate(_open_study(recipe), tmp_path / "out", work=tmp_path / "work", local=["--a.b=c"])
    assert not (tmp_path / "work").exists()
    for run in _open_study(recipe, seeds=[0]).runs():  # what is done needs nothing any more
        _write(run, tmp_path / "out")
    ablate(_open_study(recipe, seeds=[0]), tmp_path / "out")


def _refused(tmp_path, study, local=()):
    """The message of a study that is refused before any run."""
    with pytest.raises(UserError) as error:
        ablate(study, tmp_path / "out", work=tmp_path / "work", local=local)
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_what_the_parser_of_the_runs_refuses_is_told_of_all_variants_before_any_run(tmp_path):
    variants = {
        "base": {},
        "model": {"model.temperatures": 1},
        "base of contrast": {"model.contrastive.temperatures": 0.1},
        "section": {"modle.lr": 0.1},
        "plugin": {"model.plugins.ais.corpsu": "birds"},
        "kind": {"model.lr": "abc"},
        "null": {"model.optimizer": None},
        "loss": {"model.contrastive": "ppssl.MoCoV5"},
    }
    message = _refused(tmp_path, Study(str(RECIPE), variants=variants, overrides=TINY))
    assert message.startswith("The study cannot be run: ")
    assert "\n" not in message
    assert "`base`" not in message
    for problem in (
        "`temperatures` is not an option of ppssl.PPSSL; see --help (variant `model`)",
        "`temperatures` is not an option of ppssl.MoCo (did you mean temperature?) (variant `base of contrast`)",
        "No such option: --modle.lr=0.1 (did you mean --model.lr?) (variant `section`)",
        "`corpsu` is not an option of ppssl.AIS (did you mean corpus?) (variant `plugin`)",
        "`model.lr`: expected a number or null, got abc (variant `kind`)",
        "`model.optimizer` cannot be null: leave it out for its default (variant `null`)",
        "(variant `loss`)",
    ):
        assert problem in message


def test_a_problem_that_several_variants_have_is_told_once(tmp_path):
    bad = {"data.batchsize": 8}
    message = _refused(tmp_path, Study(str(RECIPE), variants=dict.fromkeys("abcde", bad)))
    assert message.endswith("(did you mean batch_size?) (all variants).")
    message = _refused(
        tmp_path, Study(str(RECIPE), variants=dict.fromkeys("abcde", bad) | {"f": {}})
    )
    assert message.endswith("(variants `a`, `b`, `c` and 2 more).")
    local = ["--data.batchsize=8"]
    message = _refused(tmp_path, Study(str(RECIPE), variants={"a": {}}), local)
    assert message.endswith("(did you mean batch_size?) (variant `a`).")


def test_a_setting_has_one_name_in_a_study(tmp_path):
    """The key of a run is made of the names: another spelling would be another run, or hide what the recipe says."""
    variants = {
        "base": {},
        "short": {"trainer.max_epoch": 2},
        "short of a checkpoint": {"checkpoint.dirp": "x"},
        "inner": {"model.plugins.ais.init_args.corpus": "birds"},
        "section": {"model": {"lr": 0.1}},
        "class": {
            "data": {"class_path": "ppssl.data.SyntheticDataModule", "init_args": {"seed": 1}}
        },
        "seed": {"seed": 5},
        "full seed": {"seed_everything": 5},
        "recipe": {"config": str(RECIPE)},
        "folder": {"trainer.default_root_dir": "x"},
        "resumed": {"resume": "auto"},
    }
    message = _refused(tmp_path, Study(str(RECIPE), variants=variants, overrides=TINY))
    assert "`base`" not in message
    for problem in (
        "No such option: --trainer.max_epoch=2 (did you mean --trainer.max_epochs?) (variant `short`)",
        "--checkpoint.dirp=x (did you mean --checkpoint.dirpath?) (variant `short of a checkpoint`)",
        "`model.plugins.ais.init_args.corpus`: write `model.plugins.ais.corpus` (variant `inner`)",
        "dotted names, such as `model.lr` (variant `section`)",
        "dotted names, such as `data.seed` (variant `class`)",
        "`seed` cannot be overridden: `seeds` of the study lists the seeds (variant `seed`)",
        "`seed_everything` cannot be overridden: `seeds` of the study lists the seeds (variant `full seed`)",
        "`config` cannot be overridden: `recipe` of the study is the only recipe (variant `recipe`)",
        "folder is that of `ppssl ablate --work` (variant `folder`)",
        "`resume` cannot be overridden: runs without a result begin anew (variant `resumed`)",
    ):
        assert problem in message
    local = ["--trainer.default_root_dir=x"]
    message = _refused(tmp_path, Study(str(RECIPE), variants={"a": {}}), local)
    assert "`trainer.default_root_dir` cannot be overridden" in message
    message = _refused(tmp_path, Study(str(RECIPE), variants={"a": {}}), ["--trainer.max_epoch=2"])
    assert "did you mean --trainer.max_epochs?" in message


def test_what_the_command_line_gives_is_parsed_and_its_placeholder_is_not(tmp_path):
    """`given` is no whole number; `--data.seed` is for the variant that asks for it."""
    variants = {"own": {}, "told": {"data.train_size": "given"}}
    study = Study(str(RECIPE), variants=variants, seeds=[0])
    message = _refused(tmp_path, study, ["--data.train_size=many"])
    assert message.endswith("expected an integer, got many (variant `told`).")
    given = [(run, ["--data.train_size=48"] * ("told" in run["variant"])) for run in study.runs()]
    check_options(given)


def test_the_check_finds_what_the_runs_find_and_changes_nothing(tmp_path, monkeypatch):
    """A class in the working folder, which ``python -m`` finds too; no seed is set and no folder made."""
    (tmp_path / "my_base.py").write_text(
        "from ppssl import MoCo\n\n\nclass Mine(MoCo):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    path, state = list(sys.path), torch.get_rng_state()
    study = Study(str(RECIPE), variants={"a": {"model.contrastive": "my_base.Mine"}}, seeds=[7])
    check_options([(run, []) for run in study.runs()])
    assert sys.path == path
    assert torch.get_rng_state().equal(state)
    assert os.environ.get("PL_GLOBAL_SEED") != "7"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["my_base.py"]


@pytest.mark.slow
def test_classifiers_are_compared_by_their_test_images(tmp_path):
    """One variant starts from a checkpoint of its seed, which the command line names; the other does not see it."""
    small = TINY | {"data.train_size": 96, "data.val_fraction": 0.0, "model.freeze_epochs": 0}
    for seed in (0, 1):
        built = build_recipe(
            "ppssl:synthetic/finetune",
            [
                *QUIET,
                *(f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in small.items()),
                f"--seed_everything={seed}",
                f"--model.init_seed={seed + 5}",
                f"--trainer.default_root_dir={tmp_path / f'first{seed}'}",
            ],
        )
        built.trainer.fit(built.model, built.datamodule)
        built.trainer.save_checkpoint(tmp_path / "pretrained" / f"first{seed}.ckpt")
        built.trainer.save_checkpoint(tmp_path / "swapped" / f"first{1 - seed}.ckpt")
    study = _open_study("ppssl:synthetic/finetune", seeds=[0, 1], overrides=small)
    study.variants["swapped"] = study.variants["pretrained"]
    local = [f"--model.pretrained={tmp_path}/{{variant}}/first{{seed}}.ckpt"]
    results = ablate(study, tmp_path / "out", work=tmp_path / "work", local=local)
    for result in results:
        right = unpack_bits(result["per_image"]["top-1"])
        assert len(right) == 24
        assert result["metrics"]["top-1"] == pytest.approx(right.mean())
        assert set(result["metrics"]) == {"top-1", "top-5", "macro"}
        assert str(tmp_path) not in json.dumps(result)
    starts = {(r["cell"]["variant"], r["seed"]): r["start"] for r in results}
    assert starts["random", 0] == starts["random", 1]  # the recipe's `init_seed`
    for seed in (0, 1):
        encoder = load_encoder(tmp_path / "pretrained" / f"first{seed}.ckpt")
        assert starts["pretrained", seed] == fingerprint(encoder) != starts["random", seed]
        assert starts["swapped", 1 - seed] == starts["pretrained", seed]
    assert summarise(results, metrics=["top-1"])["pretrained"]["top-1"]["seeds"] == 2


@pytest.mark.parametrize("name", ["synthetic", "grocery"])
def test_the_committed_base_would_not_be_run_again(name):
    """The key of a run has not changed, nor have the recipes of the base since its results were made."""
    for path in sorted((RESULTS / name / "base").glob("*.json")):
        run = json.loads(path.read_text())["cell"]
        study = Study(run["recipe"], seeds=[run["seed"]], overrides=run["overrides"])
        assert _keys(study) == [run["key"]], path
