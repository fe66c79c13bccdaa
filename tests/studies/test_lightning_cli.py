import re
from argparse import ArgumentError
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.plugins import AsyncCheckpointIO

import layouts
from ppssl import PPSSL
from ppssl.checkpointing.atomic import AtomicCheckpointIO
from ppssl.cli.main import main
from ppssl.studies.class_options import with_own_defaults
from ppssl.studies.lightning_cli import PPSSLCLI, add_plugins, build_recipe
from ppssl.studies.option_checks import check_options
from ppssl.studies.study import FROM_COMMAND_LINE, Study, command_line, load_study
from ppssl.utils.recipes import recipe_path
from tiny import tiny_clip

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STUDIES = sorted((EXPERIMENTS / "ablation").glob("*.yaml"))
TEACHER = set((EXPERIMENTS / "teacher").glob("*.yaml"))  # settings of its own script
RECIPES = sorted(set(EXPERIMENTS.rglob("*.yaml")) - set(STUDIES) - TEACHER)
STEP = [
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=1",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--model.pretrained=false",
    "--data.num_workers=0",
    "--data.batch_size=4",
]


PUBLISHED = {"cub": layouts.cub, "cars": layouts.cars, "aircraft": layouts.aircraft}


def _small(path: Path, images: Path, folder: Path) -> list[str]:
    """Overrides that make a recipe's data small, and an encoder that it takes from others."""
    recipe = yaml.safe_load(path.read_text())
    if recipe["data"]["class_path"].endswith("SyntheticDataModule"):
        return ["--data.train_size=80", "--data.test_size=40"]
    if path.parent.name == "folder":
        return ["--data.root", str(images)]
    small = ["--data.image_size=32", "--model.backbone=resnet_small"]
    small += ["--model.backbone_kwargs={width: 4}"]
    if path.parent.name not in PUBLISHED:
        return [*small, "--data.root", str(images)]
    root = PUBLISHED[path.parent.name](folder / "data")
    small += ["--data.root", str(root), "--data.check_counts=false"]
    if "plugins" in recipe["model"]["init_args"]:
        (folder / "corpus.txt").write_text("".join(f"a thing of kind {k}\n" for k in range(9)))
        small += [f"--model.plugins.ais.corpus={folder / 'corpus.txt'}"]
        small += [f"--model.plugins.ais.teacher={tiny_clip(folder / 'clip')}"]
    return small


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_every_recipe_takes_a_step(path: Path, image_folder: Path, tmp_path: Path) -> None:
    built = build_recipe(
        str(path),
        [*STEP, *_small(path, image_folder, tmp_path), f"--trainer.default_root_dir={tmp_path}"],
    )
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    built.trainer.fit(built.model, built.datamodule)
    assert built.trainer.global_step == 1
    made = {name for name, _ in built.model.named_parameters()} - before.keys()
    assert made  # in setup
    after = {name: p.detach() for name, p in built.model.named_parameters()}
    moved = {name for name, p in before.items() if not torch.equal(after[name], p)}
    frozen = path.stem == "linear" or getattr(built.model, "freeze_epochs", 0) > 0  # at first
    assert bool(moved) == (not frozen)
    if path.parent.name in PUBLISHED and path.stem in ("linear", "finetune"):
        (tested,) = built.trainer.test(built.model, built.datamodule, verbose=False)
        assert 0 <= tested["test/top1"] <= tested["test/top5"] <= 1


def _settings(built: PPSSLCLI) -> dict[str, Any]:
    """Everything that was parsed, but the path of the recipe."""
    settings = built.config.as_dict()
    settings.pop("config")
    return settings


@pytest.mark.parametrize(
    "name",
    [
        "synthetic/pretrain",
        "synthetic/finetune",
        "synthetic/linear",
        "folder/pretrain",
        "photos/pretrain",
        "cub/pretrain",
    ],
)
def test_the_config_that_fit_writes_is_a_recipe(
    name: str, image_folder: Path, tmp_path: Path
) -> None:
    path = EXPERIMENTS / f"{name}.yaml"
    overrides = [
        *STEP,
        *_small(path, image_folder, tmp_path),
        f"--trainer.default_root_dir={tmp_path}",
    ]
    overrides.remove("--trainer.logger=false")  # else it is not written
    assert main(["fit", "--config", str(path), *overrides]) == 0
    (written,) = tmp_path.rglob("config.yaml")
    assert "ckpt_path" in yaml.safe_load(written.read_text())
    again, first = build_recipe(written), build_recipe(path, overrides)
    assert _settings(again) == _settings(first)
    assert again.model.config() == first.model.config()


def test_the_config_of_a_run_from_a_checkpoint_says_what_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    content = {
        "ckpt_path": "a.ckpt",
        "weights_only": None,
        "verbose": True,
        "trainer": {"logger": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with caplog.at_level("INFO"):
        build_recipe(tmp_path / "config.yaml")
    assert "`ckpt_path` of " in caplog.text + capsys.readouterr().err
    with pytest.raises(ArgumentError, match="ckpt_path"):  # there is no command that would load it
        build_recipe("ppssl:base", ["--ckpt_path=a.ckpt"])
    (tmp_path / "config.yaml").write_text("ckpt_pth: a.ckpt")
    with pytest.raises(ArgumentError, match="ckpt_pth"):
        build_recipe(tmp_path / "config.yaml")


@cache
def _published(name: str, kind: str) -> PPSSLCLI:
    """A recipe as it is built; not to be changed."""
    overrides = ["--model.pretrained=false", "--trainer.logger=false", "--data.root=unused"]
    return build_recipe(f"ppssl:{name}/{kind}", overrides)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_the_published_sets_are_the_literatures(name: str) -> None:
    """F7, by what is built of base recipe and overlay."""
    built = _published(name, "moco_v2")
    model, data, moco = built.model, built.datamodule, built.model.contrastive
    assert (model.backbone, model.optimizer, model.base_lr) == ("resnet50", "sgd", 0.03)
    assert (model.sgd_momentum, model.weight_decay) == (0.9, 1e-4)
    assert (data.image_size, data.batch_size, built.trainer.max_epochs) == (224, 128, 100)
    assert data.augmentation is None  # MoCo v2's
    assert (moco.dim, moco.temperature, moco.momentum) == (256, 0.2, 0.999)
    assert moco.queue_size == "auto"
    assert not model.plugins
    assert type(data).__name__.lower() == f"{name}datamodule"
    recipe = yaml.safe_load(Path(recipe_path(f"ppssl:{name}/moco_v2")).read_text())
    assert recipe["trainer"] == {"default_root_dir": f"runs/{name}/moco_v2"}
    assert recipe["model"]["init_args"]["pretrained"] is True


@pytest.mark.parametrize("name", PUBLISHED)
def test_pp_ssl_on_the_published_sets_is_the_recipe_of_photographs_with_ais(name: str) -> None:
    def settings(recipe: str) -> dict[str, object]:
        return yaml.safe_load(Path(recipe_path(recipe)).read_text())["model"]["init_args"]

    photos, own = settings("ppssl:photos/pretrain"), settings(f"ppssl:{name}/pretrain")
    for changed in (photos, own):
        changed.pop("backbone", None)
    plugins, base = own.pop("plugins"), photos.pop("plugins")
    assert own == photos
    assert set(plugins) == {"anchor", "ais"}
    assert plugins["anchor"]["init_args"] == base["anchor"]["init_args"] | {"loss_weight": 3.0}


def test_pretrained_has_one_default_in_python_and_on_the_command_line() -> None:
    built = build_recipe("ppssl:base", ["--model.backbone=resnet18", "--data.root=unused"])
    assert built.model.pretrained == PPSSL("resnet18").pretrained


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_classifiers_of_the_published_sets_are_the_literatures(name: str, kind: str) -> None:
    """F9 for the linear probe, F7 as far as it goes for fine-tuning; nothing of the labels is held out."""
    built = _published(name, kind)
    model, data = built.model, built.datamodule
    assert type(data).__name__.lower() == f"{name}datamodule"
    assert (model.backbone, model.sgd_momentum) == ("resnet50", 0.9)
    assert (data.image_size, data.val_fraction, data.label_fraction) == (224, 0, 1)
    assert built.trainer.max_epochs == 100
    if kind == "finetune":
        assert (model.optimizer, model.weight_decay, data.batch_size) == ("sgd", 1e-4, 64)
        return
    assert (model.lr, model.weight_decay, data.batch_size) == (30, 0, 256)
    assert model.augmentation is None  # crops and mirroring
    steps_an_epoch = data.sizes.train // 256
    ends = [round(part * 100 * steps_an_epoch) for part in model.milestones]
    assert ends == [60 * steps_an_epoch, 80 * steps_an_epoch]


@pytest.mark.parametrize("kind", ["moco_v2", "pretrain", "linear", "finetune"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_steps_that_are_told_are_those_of_the_whole_set(name: str, kind: str) -> None:
    """In the recipe's header and in LITERATURE.md; the last and partial batch is left out."""
    built = _published(name, kind)
    steps = built.datamodule.sizes.train // built.datamodule.batch_size
    epochs = 20 if kind == "pretrain" else 100
    assert built.trainer.max_epochs == epochs
    text = (EXPERIMENTS / name / f"{kind}.yaml").read_text().replace("\n# ", " ")
    assert re.findall(r"(\d+) steps each", text) == ([] if kind == "pretrain" else [str(steps)])
    table = (EXPERIMENTS / "LITERATURE.md").read_text()
    (row,) = [line for line in table.splitlines() if line.startswith("| `") and f"`{kind}`" in line]
    cell = row.split("|")[4 + list(PUBLISHED).index(name)].strip()
    assert cell == f"{steps} x {epochs} = {steps * epochs:,}"


def test_every_folder_of_recipes_is_packaged() -> None:
    config = ConfigParser()
    config.read(EXPERIMENTS.parent / "setup.cfg")
    folders = {path.parent.relative_to(EXPERIMENTS) for path in RECIPES}
    names = {".".join(["ppssl.experiments", *folder.parts]) for folder in folders}
    assert names <= set(config["options"]["packages"].split())
    assert names <= set(config["options.package_data"])


def _with_new_options(runs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Runs with an option that no earlier one has."""
    seen: set[str] = set()
    for i, run in enumerate(runs):
        if i == 0 or not run["overrides"].keys() <= seen:
            yield run
        seen |= run["overrides"].keys()


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_every_study_names_a_recipe_and_known_options(path: Path) -> None:
    """Each option of a study once."""
    study = load_study(str(path))
    check_options([_with_all_given(run) for run in _with_new_options(_variants(study))])


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_every_variant_of_a_study_can_be_built(path: Path) -> None:
    for run, local in map(_with_all_given, _variants(load_study(str(path)))):
        build_recipe(run["recipe"], [*command_line(run, local), "--trainer.logger=false"])


def _variants(study: Study) -> list[dict[str, Any]]:
    """A run of each variant."""
    return list({run["variant"]: run for run in study.runs()}.values())


def _with_all_given(run: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A run whose teachers and corpora are packaged ones, in place of those of the command line; the rest of that."""
    local = [] if "synthetic" in run["recipe"] else ["--data.root=unused"]
    local += ["--model.pretrained=false"] if "photos" in run["recipe"] else []
    named = run["overrides"]
    asked = {k for k, v in named.items() if v == FROM_COMMAND_LINE}
    teachers = {k[: k.index(".teacher.") + 8] for k in asked if ".teacher." in k}
    inner = tuple(f"{teacher}." for teacher in teachers)
    given = {k: v for k, v in named.items() if k not in asked and not k.startswith(inner)}
    given |= {k: "birds" for k in asked if k.endswith(".corpus")}
    given |= {k: "synthetic-clip" for k in {*named, *teachers} if k.endswith(".teacher")}
    return run | {"overrides": given}, local


def test_the_launchers_settings_become_the_trainers_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "CLI_USED": "1",
        "ACCELERATOR": "cpu",
        "DEVICES": "1",
        "PRECISION": "bf16-mixed",
    }.items():
        monkeypatch.setenv(f"LT_{name}", value)
    quiet = ["--trainer.logger=false", "--data.root=unused"]
    assert build_recipe("ppssl:folder/pretrain", quiet).trainer.precision == "bf16-mixed"
    explicit = build_recipe("ppssl:folder/pretrain", [*quiet, "--trainer.precision=32-true"])
    assert explicit.trainer.precision == "32-true"


def test_torchruns_processes_become_the_trainers_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
    for name, value in (told | {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    quiet = ["--trainer.logger=false", "--data.root=unused", "--trainer.accelerator=cpu"]
    trainer = build_recipe("ppssl:folder/pretrain", quiet).trainer
    assert (trainer.num_devices, trainer.num_nodes, trainer.world_size) == (2, 3, 6)


def test_checkpoints_are_atomic_unless_a_plugin_writes_them() -> None:
    quiet = ["--trainer.logger=false", "--data.root", "here"]
    trainer = build_recipe("ppssl:folder/pretrain", quiet).trainer
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    plugin = "--trainer.plugins=[lightning.pytorch.plugins.AsyncCheckpointIO]"
    trainer = build_recipe("ppssl:folder/pretrain", [*quiet, plugin]).trainer
    assert type(trainer.strategy.checkpoint_io) is AsyncCheckpointIO


def test_that_the_cpu_has_no_fp16_is_said_once() -> None:
    with pytest.warns(UserWarning, match="16-mixed.*bf16-mixed") as caught:
        built = build_recipe(
            "ppssl:folder/pretrain",
            ["--trainer.precision=16-mixed", "--trainer.accelerator=cpu", "--trainer.logger=false"],
        )
    assert built.trainer.precision == "bf16-mixed"
    assert len([w for w in caught if "16-mixed" in str(w.message)]) == 1


def test_an_option_of_a_plugin_adds_the_plugin(tmp_path: Path) -> None:
    corpus = "--model.plugins.ais.corpus=x"
    added = ["--model.plugins.ais=ppssl.AIS", corpus]
    assert add_plugins(["--lr=1", corpus, "--model.plugins.ais.top_k=3"]) == [
        "--lr=1",
        *added,
        "--model.plugins.ais.top_k=3",
    ]
    long = "--model.init_args.plugins.ais.corpus=x"
    assert add_plugins([long]) == ["--model.init_args.plugins.ais=ppssl.AIS", long]
    named = ["--model.plugins.ais=mine.AIS", corpus]
    assert add_plugins(named) == named
    config = tmp_path / "c.yaml"
    config.write_text("model: {init_args: {plugins: {ais: {class_path: ppssl.AIS}}}}")
    assert add_plugins(["--config", str(config), corpus]) == ["--config", str(config), corpus]
    assert add_plugins([f"--config={config}", corpus]) == [f"--config={config}", corpus]
    config.write_text("model: {init_args: {plugins: null}}")
    assert add_plugins(["--config", str(config), corpus]) == ["--config", str(config), *added]
    anchor = "--model.plugins.anchor.loss_weight=1"
    assert add_plugins([anchor]) == ["--model.plugins.anchor=ppssl.Anchor", anchor]
    assert add_plugins(["--model.plugins.other.corpus=x"]) == ["--model.plugins.other.corpus=x"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ([], {"dim": 128, "momentum": 0.997, "temperature": 0.03}),  # the recipe's
        (["--model.contrastive.dim=64"], {"dim": 64, "momentum": 0.997, "temperature": 0.03}),
        (["--model.contrastive=ppssl.SimCLR"], {"dim": 128, "temperature": 0.1}),
        (
            ["--model.contrastive", "MoCoV3", "--model.contrastive.dim=64"],
            {"dim": 64, "momentum": "auto", "temperature": 0.2},
        ),
        (
            ["--model.contrastive={class_path: ppssl.BYOL, init_args: {dim: 64}}"],
            {"dim": 64, "momentum": "auto"},
        ),
        (["--model.init_args.contrastive.class_path=ppssl.BYOL"], {"dim": 256, "momentum": "auto"}),
        (["--model.contrastive=ppssl.MoCo"], {"dim": 256, "momentum": "auto", "temperature": 0.2}),
    ],
)
def test_an_objective_that_is_chosen_has_its_own_defaults(
    choice: list[str], expected: dict[str, object]
) -> None:
    built = build_recipe("ppssl:synthetic/pretrain", [*choice, "--trainer.logger=false"])
    found = built.model.contrastive.config()["init_args"]
    assert {name: found[name] for name in expected} == expected


_START = {
    "anchor": {"class_path": "ppssl.Anchor", "init_args": {"loss_weight": 7.0, "bank_dir": "b"}},
    "distillation": {
        "class_path": "ppssl.Distillation",
        "init_args": {
            "loss_weight": 5.0,
            "teacher": {
                "class_path": "ppssl.TimmTeacher",
                "init_args": {"backbone": "resnet18", "pretrained": False},
            },
        },
    },
}
_ZOOM = {
    "class_path": "ppssl.ZoomTeacher",
    "init_args": {"teacher": "synthetic-clip", "backbone": "resnet34"},
}


def _overlay(
    contrastive: dict[str, Any] | None = None,
    plugins: dict[str, Any] | None = None,
    **data: Any,
) -> dict[str, Any]:
    model = {"contrastive": contrastive, "plugins": plugins}
    given = {name: value for name, value in model.items() if value is not None}
    return {"model": {"class_path": "ppssl.PPSSL", "init_args": given}} | (
        {"data": {"class_path": "ppssl.SyntheticDataModule", "init_args": data}} if data else {}
    )


def _objects(built: PPSSLCLI) -> dict[str, Any]:
    """Configuration of the objects whose class may be chosen, by name."""
    found = built.model.config()["init_args"]["plugins"] | {
        "contrastive": built.model.contrastive.config()
    }
    return {name: config["init_args"] for name, config in found.items()}


@pytest.mark.parametrize("way", ["second recipe", "options"])
@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("contrastive", {"class_path": "ppssl.BYOL"}, {"dim": 256, "momentum": "auto"}),
        (
            "contrastive",
            {"class_path": "BYOL", "init_args": {"dim": 64}},
            {"dim": 64, "momentum": "auto"},
        ),
        ("anchor", {"class_path": "ppssl.IADM"}, {"loss_weight": 1.0}),
        (
            "distillation",
            {"class_path": "ppssl.Distillation", "init_args": {"teacher": _ZOOM}},
            {"loss_weight": 5.0, "teacher.pretrained": True},
        ),
        (
            "anchor",  # of the same class, by another name
            {"class_path": "ppssl.losses.anchor.Anchor", "init_args": {"loss_weight": 2.0}},
            {"loss_weight": 2.0, "bank_dir": "b"},
        ),
    ],
)
def test_values_of_the_former_class_are_dropped(
    tmp_path: Path, way: str, name: str, change: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The recipe has a MoCo with a momentum of 0.997; what is not changed stays."""
    start, second = tmp_path / "start.yaml", tmp_path / "second.yaml"
    start.write_text(yaml.safe_dump(_overlay(plugins=_START)))
    if way == "options":
        place = name if name == "contrastive" else f"plugins.{name}"
        args = [f"--model.{place}={yaml.safe_dump(change, default_flow_style=True).strip()}"]
    else:
        contrastive = change if name == "contrastive" else None
        plugins = None if name == "contrastive" else {name: change}
        second.write_text(yaml.safe_dump(_overlay(contrastive, plugins)))
        args = ["--config", str(second)]
    quiet = ["--config", str(start), *args, "--trainer.logger=false"]
    objects = _objects(build_recipe("ppssl:synthetic/pretrain", quiet))
    found = objects[name]
    if isinstance(teacher := found.get("teacher"), dict):
        found |= {f"teacher.{key}": value for key, value in teacher["init_args"].items()}
    assert {key: found[key] for key in expected} == expected
    if name != "anchor" and (way == "options" or name == "contrastive"):
        assert objects["anchor"]["loss_weight"] == 7.0  # a second recipe's plugins replace all
    if name != "contrastive":
        assert objects["contrastive"]["momentum"] == 0.997


def test_a_second_recipe_of_the_same_class_changes_only_what_it_says(tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    moco = {"class_path": "ppssl.MoCo", "init_args": {"dim": 64}}
    views = {"class_path": "ppssl.MoCoV2Augmentation", "init_args": {"blur_probability": 0.1}}
    second.write_text(yaml.safe_dump(_overlay(moco, augmentation=views)))
    quiet = ["--config", str(second), "--trainer.logger=false"]
    built = build_recipe("ppssl:synthetic/pretrain", quiet)
    assert (built.model.contrastive.dim, built.model.contrastive.momentum) == (64, 0.997)
    views = built.datamodule.augmentation
    assert (views.blur_probability, views.crop_scale) == (0.1, (0.6, 1.0))


def test_the_last_class_counts() -> None:
    """A reset comes before each change of a class, and one of a plugin is that of its teacher too."""
    args = ["--data.augmentation=m.A", "--data.augmentation", "m.B", "--data.augmentation.x=1"]
    reset = "--data.augmentation=null"
    assert with_own_defaults(args) == [args[0], reset, *args[1:]]
    assert with_own_defaults([args[0], args[0]]) == [args[0], args[0]]
    assert with_own_defaults([args[0], reset, *args[1:]]) == [args[0], reset, *args[1:]]
    plugin = [
        "--model.plugins.a=m.A",
        "--model.plugins.a={class_path: m.B, init_args: {teacher: {class_path: m.T}}}",
    ]
    assert with_own_defaults(plugin) == [plugin[0], "--model.plugins.a=ppssl.LossPlugin", plugin[1]]
    for odd in (["fit", "--config"], ["--data.x={a: 2024-13-45}"], ["--data.x={", "--data.y"]):
        assert with_own_defaults(odd) == odd


@pytest.mark.parametrize(
    ("options", "kwargs"),
    [
        (["--model.backbone=resnet18"], None),
        (["--model.backbone=resnet_small"], {"width": 16}),
        (
            ["--model.backbone=resnet18", "--model.backbone_kwargs.drop_rate=0.1"],
            {"drop_rate": 0.1},
        ),
        (
            ["--model.backbone_kwargs.drop_rate=0.1", "--model.backbone=resnet18"],
            {"drop_rate": 0.1},
        ),
        (["--config", "other.yaml"], {"drop_rate": 0.2}),
    ],
)
def test_another_backbone_does_not_get_the_arguments_of_the_recipes(
    options: list[str], kwargs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text(
        "model: {init_args: {backbone: resnet18, backbone_kwargs: {drop_rate: 0.2}}}"
    )
    options = [*options, "--data.root=unused", "--trainer.logger=false"]
    assert build_recipe("ppssl:folder/pretrain", options).model.backbone_kwargs == kwargs
