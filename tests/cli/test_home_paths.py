"""``~`` and ``os.PathLike`` in every path: on the command line, in YAML and in Python."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import RECIPE, TINY, error_line
from output_options import IDS, OUTPUTS
from ppssl.checkpointing.files import read_checkpoint, read_weights, restore
from ppssl.classify.finetune import FineTune
from ppssl.classify.linear_probe import LinearProbe
from ppssl.cli.main import main
from ppssl.data import (
    AircraftDataModule,
    CarsDataModule,
    CUBDataModule,
    FolderDataModule,
    SyntheticDataModule,
)
from ppssl.evaluation.evaluate import evaluate
from ppssl.evaluation.evaluate_rows import evaluate_rows
from ppssl.evaluation.lcr_protocol import checkpoints_of
from ppssl.inference.embed import embed
from ppssl.inference.embedding_file import read_description
from ppssl.inference.explain import Explanation, View, explain, image_files
from ppssl.inference.export import export
from ppssl.inference.neighbours import draw_neighbours, neighbours
from ppssl.module import PPSSL
from ppssl.studies.ablate import ablate
from ppssl.studies.demo import demo
from ppssl.studies.lightning_cli import build_recipe
from ppssl.studies.study import Study, load_study
from ppssl.text.corpus import TextCorpus
from ppssl.text.corpus_generation import generate_corpus
from ppssl.text.corpus_inspection import inspect_corpus
from ppssl.text.image_bank import bank_folder
from ppssl.text.language_model import LanguageModel
from ppssl.text.teachers.load import load_teacher
from ppssl.utils.errors import UserError
from ppssl.utils.paths import cache_folder
from ppssl.utils.results import write_json


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, with the file ``file`` in it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "home" / "file").write_text("mine")
    return tmp_path / "home"


FIT = ["--config", str(RECIPE), *TINY, "--model.backbone=resnet_small", "--model.pretrained=false"]
SYNTHETIC = ["--config", "ppssl:synthetic/pretrain", *TINY, "--data.train_size=160"]
GENERATE = ["--classes", "{names}", "--out", "out.jsonl"]
WHERE = ["--embeddings=~/missing", "--checkpoint=nowhere.ckpt"]
INPUTS = [
    ("ablate", ["~/missing.yaml", "--out", "out"]),
    ("bench saliency", ["--checkpoints", "~/missing", "--out", "out"]),
    ("bench loader", ["--data.root=~/missing"]),
    ("corpus generate", ["--model=~/missing", *GENERATE]),
    ("corpus generate", ["--model=x", "--classes=~/missing", "--out", "out.jsonl"]),
    ("corpus inspect", ["~/missing.txt"]),
    ("corpus inspect", ["cub-attributes", "--root=~/missing"]),
    ("corpus inspect", ["class-names", "--classes=~/missing"]),
    ("corpus inspect", ["birds", "--teacher=~/missing"]),
    ("corpus inspect", ["birds", "--teacher=synthetic-clip", "--images", "~/missing.jpg"]),
    ("embed", ["~/missing", "--out", "out.parquet"]),
    ("evaluate", ["~/missing"]),
    ("evaluate", ["~/missing.parquet"]),
    ("evaluate", ["nowhere.ckpt", "--data=~/missing.yaml"]),
    ("evaluate", ["~/missing", "--protocol", "lcr-2023"]),
    ("explain", ["~/missing", "x.jpg", "--out", "out"]),
    ("export", ["~/missing", "--to=timm", "--out", "out"]),
    ("neighbours", ["~/missing.jpg", *WHERE]),
    ("report", ["~/missing"]),
    ("fit", ["--config=~/missing.yaml"]),
    ("fit", ["-c", "~/missing.yaml"]),
    ("fit", [*FIT, "--data.root=~/missing"]),
    ("fit", [*SYNTHETIC, "--resume=~/missing.ckpt"]),
    ("fit", [*SYNTHETIC, "--model.pretrained=~/missing.pth"]),
]


@pytest.mark.parametrize(("command", "arguments"), INPUTS)
def test_inputs_of_commands(command: str, arguments: list[str], home: Path, capsys: Any) -> None:
    (home / "names.txt").write_text("wren\n")
    filled = [str(home / "names.txt") if arg == "{names}" else arg for arg in arguments]
    assert main([*command.split(), *filled]) == 2
    line = error_line(capsys)
    assert f"{home}/missing" in line
    assert "~" not in line


@pytest.mark.parametrize(
    ("command", "arguments", "kind"),
    [
        # `fit` stands for all that share its parser
        pytest.param(*o, id=i, marks=[pytest.mark.slow] * (o[0] in ("validate", "test", "predict")))
        for o, i in zip(OUTPUTS, IDS, strict=True)
    ],
)
def test_outputs_of_commands(
    command: str, arguments: list[str], kind: str, home: Path, capsys: Any
) -> None:
    (home / "names.txt").write_text("wren\n")
    (home / "study.yaml").write_text("recipe: ppssl:synthetic/pretrain\nseeds: [0]\n")
    for name, value in {
        "{{": "{",
        "}}": "}",
        "{names}": str(home / "names.txt"),
        "{study}": str(home / "study.yaml"),
        "{other}": "other",
        "{place}": "~/file/place",
    }.items():
        arguments = [arg.replace(name, value) for arg in arguments]
    assert main([*command.split(), *arguments]) == 2
    line = error_line(capsys)
    assert line.startswith(f"ppssl: Cannot write {home}/file/place"), line
    assert list(Path().iterdir()) == []


def test_paths_in_yaml(home: Path) -> None:
    recipe = home / "recipe.yaml"
    content = yaml.safe_load(RECIPE.read_text())
    content["data"]["init_args"]["root"] = "~/images"
    content["model"]["init_args"] |= {"backbone": "resnet_small", "pretrained": False}
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "~/logs"},
    }
    content["trainer"] = {"default_root_dir": "~/runs", "logger": [logger]}
    content["checkpoint"] = {"dirpath": "~/checkpoints"}
    plugin = {"class_path": "ppssl.AIS", "init_args": {"corpus": "~/c.txt", "bank_dir": "~/banks"}}
    content["model"]["init_args"]["plugins"] = {"ais": plugin}
    recipe.write_text(yaml.safe_dump(content))
    built = build_recipe("~/recipe.yaml")
    assert built.datamodule.root == str(home / "images")
    assert built.trainer.default_root_dir == str(home / "runs")
    assert built.trainer.logger.save_dir == str(home / "logs")
    assert built.model.plugins["ais"].corpus == str(home / "c.txt")
    assert built.model.plugins["ais"].bank_dir == str(home / "banks")
    assert "~" not in str(built.config)


class Location(os.PathLike[str]):
    """A path that is neither a string nor a :class:`pathlib.Path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


def _set_up(data: type, **kwargs: Any) -> Callable[[Any], None]:
    return lambda path: data(path, batch_size=2, **kwargs).setup()


def _data() -> SyntheticDataModule:
    return SyntheticDataModule(train_size=8, test_size=8, image_size=32)


READING: dict[str, Callable[[Any], Any]] = {
    "AircraftDataModule": _set_up(AircraftDataModule),
    "CUBDataModule": _set_up(CUBDataModule),
    "CarsDataModule": _set_up(CarsDataModule),
    "FineTune": lambda path: FineTune(pretrained=path, backbone=None),
    "FolderDataModule": _set_up(FolderDataModule),
    "LanguageModel": LanguageModel,
    "LinearProbe": lambda path: LinearProbe(pretrained=path, backbone=None),
    "PPSSL.load_from_checkpoint": PPSSL.load_from_checkpoint,
    "TextCorpus.load": TextCorpus.load,
    "View.of": View.of,
    "build_recipe": build_recipe,
    "checkpoints_of": checkpoints_of,
    "embed": lambda path: embed(path, _data(), "out.parquet"),
    "evaluate": lambda path: evaluate(path, _data()),
    "evaluate_rows": lambda path: evaluate_rows(path, _data()),
    "explain": lambda path: explain(path, __file__),
    "explain, image": lambda path: explain(PPSSL("resnet_small", pretrained=False), path),
    "export": lambda path: export(path, "timm", "out"),
    "image_files": lambda path: image_files([path]),
    "inspect_corpus": lambda path: inspect_corpus(TextCorpus.load("birds"), teacher=path),
    "load_study": load_study,
    "load_teacher": load_teacher,
    "neighbours": lambda path: neighbours(__file__, path, "y"),
    "neighbours, image": lambda path: draw_neighbours(path, [], "out.png"),
    "read_checkpoint": read_checkpoint,
    "read_description": read_description,
    "read_weights": read_weights,
    "restore": lambda path: restore(PPSSL, path, {}),
}
WRITING: dict[str, Callable[[Any], Any]] = {
    "Explanation.save": lambda path: Explanation([], None, {}).save(path),  # type: ignore[arg-type]  # none is drawn
    "ablate": lambda path: ablate(Study("ppssl:synthetic/pretrain"), path),
    "ablate, work": lambda path: ablate(Study("ppssl:synthetic/pretrain"), "out", work=path),
    "demo": demo,
    "embed": lambda path: embed("x", _data(), path),
    "export": lambda path: export("x", "timm", path),
    "generate_corpus": lambda path: generate_corpus("x", ["wren"], f"{os.fspath(path)}.jsonl"),
    "neighbours": lambda path: neighbours("x", "y", "z", out=path),
    "write_json": lambda path: write_json(path, {}),
}


@pytest.mark.parametrize("kind", [str, Path, Location])
@pytest.mark.parametrize("read", READING.values(), ids=READING)
def test_paths_that_python_reads(read: Callable[[Any], Any], kind: type, home: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(kind("~/missing"))
    assert f"{home}/missing" in str(caught.value)


@pytest.mark.parametrize("kind", [str, Path, Location])
@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_paths_that_python_writes(write: Callable[[Any], Any], kind: type, home: Path) -> None:
    with pytest.raises(UserError, match=f"Cannot write {home}/file/missing"):
        write(kind("~/file/missing"))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("read", READING.values(), ids=READING)
def test_unknown_users_and_empty_paths(read: Callable[[Any], Any], home: Path) -> None:
    """A path of an unknown user stays as it is, as in a shell, and none is the working folder by chance."""
    with pytest.raises(UserError, match=r"~nobody-has-this-name/x|No such"):
        read("~nobody-has-this-name/x")
    with pytest.raises(UserError, match=r"empty|``|''|No such"):
        read("")


def test_the_cache_may_be_at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPSSL_CACHE", "~/cache")
    assert cache_folder() == home / "cache"
    assert bank_folder() == home / "cache" / "banks"
    assert bank_folder(Location("~/banks")) == home / "banks"
    monkeypatch.delenv("PPSSL_CACHE")
    assert cache_folder() == home / ".cache" / "ppssl"
