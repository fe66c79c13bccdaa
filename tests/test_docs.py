"""Every code block of README and docs runs, or its commands are parsed; a block that needs more says what.

A comment above a block tells what to do with it: ``<!-- needs: CLIP weights -->`` (its commands are parsed and not run,
a recipe is not parsed) or ``<!-- file: mine.yaml -->`` (saved under that name for the blocks after it). Python that
``needs`` a package runs where it is installed.
"""

import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jsonargparse
import numpy as np
import pytest
import yaml
from PIL import Image

import layouts
from ppssl.cli.main import main
from ppssl.studies.option_checks import check_options
from ppssl.studies.study import load_study
from shard_files import write_shards
from test_rooms import ROOMS

PROJECT = Path(__file__).parents[1]
GENERATED = ("docs/_build", "docs/reference", "docs/generated")
LITERATURE = "experiments/LITERATURE.md"
"""All of its commands need the published data sets."""
PAGES = sorted(
    str(path.relative_to(PROJECT))
    for path in [
        PROJECT / "README.md",
        PROJECT / "CONTRIBUTING.md",
        PROJECT / LITERATURE,
        *PROJECT.glob("docs/**/*.md"),
    ]
    if not str(path.relative_to(PROJECT)).startswith(GENERATED)
)
FAST = "docs/how-to/use-an-encoder.md"
"""The page whose commands run in the default tests; those of the others take longer."""
LONG_PYTHON = [
    f"docs/how-to/{name}.md"
    for name in (
        "bring-your-own",
        "coming-from-lightly",
        "saliency-maps",
        "your-base",
        "your-images",
    )
]
"""Pages whose Python trains several models or draws: not in the default tests."""


class Block(NamedTuple):
    """A code block: its language, its text, and what the comment above it says."""

    language: str
    code: str
    needs: str
    file: str


def blocks(page: str, language: str) -> list[Block]:
    """The code blocks of a page, in order."""
    pattern = r"(?:^<!-- (needs|file): (.+?) -->\n)?^```([\w{}-]*)[^\n]*\n(.*?)^```$"
    matches = re.findall(pattern, (PROJECT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    found = [
        Block(kind, code, text if mark == "needs" else "", text if mark == "file" else "")
        for mark, text, kind, code in matches
    ]
    return [block for block in found if block.language == language]


def having(language: str) -> list[str]:
    """The pages with blocks of a language."""
    return [page for page in PAGES if blocks(page, language)]


def commands(block: Block) -> list[list[str]]:
    """The command lines of a bash block, as words."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def ppssl_arguments(words: list[str]) -> list[str] | None:
    """What ``ppssl`` is started with; ``None`` for a command that is not ours."""
    if words[0] == "ppssl":
        return words[1:]
    if words[0] in ("torchrun", "fabric"):
        return words[words.index("experiments/train.py") + 1 :]
    if words[:2] == ["sbatch", "experiments/slurm.sh"]:
        return ["fit", *words[2:]]
    return None


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name: images, checkpoints of an encoder and a classifier, ``bird.jpg``."""
    root = tmp_path_factory.mktemp("example")
    images, rng = root / "path" / "to" / "images", np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for label, colour in enumerate(((200, 60, 60), (60, 200, 60), (60, 60, 200))):
            folder = images / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(0, 40, (40, 48, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    Image.open(images / "test" / "class0" / "0.png").save(root / "bird.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        pretrain, finetune = "ppssl:folder/pretrain", "ppssl:folder/finetune"
        resnet = ["--model.backbone=resnet18", "--model.backbone_kwargs=null"]
        _fit("last", "--config", pretrain)
        _fit("resnet18", "--config", pretrain, *resnet)
        _fit("classifier", "--config", finetune, "--model.pretrained=path/to/last.ckpt")
        shutil.rmtree("runs")
    return root


@pytest.fixture
def folder(tmp_path: Path, example: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example to work in."""
    shutil.copytree(example, tmp_path / "work", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def _fit(name: str, *arguments: str) -> None:
    root = ["--data.root", "path/to/images", f"--trainer.default_root_dir=runs/{name}"]
    assert main(["fit", *small(["fit", *arguments])[1:], *root]) == 0
    (last,) = Path("runs", name).rglob("last.ckpt")
    shutil.copy(last, f"path/to/{name}.ckpt")
    (checkpoints := Path("path/to/checkpoints")).mkdir(exist_ok=True)
    if name == "last":
        shutil.copy(last, checkpoints / "last.ckpt")


def small(arguments: list[str]) -> list[str]:
    """A command as it is, or a training command of seconds."""
    if arguments[0] not in ("fit", "validate", "test", "predict"):
        return arguments
    line = " ".join(arguments)
    size = 2 if "--data.label_fraction" in line else 8
    tiny = ["--data.image_size=32", f"--data.batch_size={size}", "--data.num_workers=0"]
    tiny += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    tiny += ["--trainer.max_epochs=1"] if arguments[0] == "fit" else []
    if "ppssl:folder" in line and "--model.backbone=resnet18" not in line:
        tiny += ["--model.backbone_kwargs={width: 4}"]
    if "ppssl:synthetic" in line:
        tiny += ["--data.train_size=64", "--data.test_size=32", "--data.num_classes=4"]
        tiny += ["--model.backbone_kwargs={width: 4}"]
    return [*arguments, *tiny]


def small_code(code: str) -> str:
    """Python of seconds: one epoch, small batches of small images."""
    code = re.sub(r"max_epochs=\d+", "max_epochs=1", code)
    code = re.sub(r"image_size=64", "image_size=32", code)
    return re.sub(r"batch_size=\d+", "batch_size=8, num_workers=0", code)


def is_there(needs: str) -> bool:
    """Whether what a block of Python needs is nothing, or a package that is installed."""
    return not needs or (needs.isidentifier() and importlib.util.find_spec(needs) is not None)


class Parsed(BaseException):
    """A command line was parsed."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end when their options are parsed."""
    parse_args = jsonargparse.ArgumentParser.parse_args

    def parse(*args: Any, **kwargs: Any) -> None:
        parse_args(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", parse)


def save_files(page: str) -> None:
    """Write the blocks that are files."""
    for block in [*blocks(page, "yaml"), *blocks(page, "text")]:
        if block.file:
            Path(block.file).write_text(block.code)


@pytest.mark.parametrize("page", PAGES)
def test_languages_are_known(page: str) -> None:
    languages = ("python", "bash", "yaml", "text", "{image}", "{toctree}")
    count = (PROJECT / page).read_text().count("\n```")
    assert count == 2 * sum(len(blocks(page, language)) for language in languages)


@pytest.mark.parametrize("page", [*PAGES, "experiments/RESULTS.md"])
def test_files_that_are_named_exist(page: str) -> None:
    text = (PROJECT / page).read_text()
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", text)
    here = [(PROJECT / page).parent / link for link in links]
    here += [
        PROJECT / path
        for path in re.findall(r"(?<![\w/])(?:tests|experiments|notebooks)/[\w/-]+\.\w+", text)
    ]
    missing = [str(path) for path in here if not path.exists()]
    assert missing == []  # not even pages that are generated: the sources are read, too


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_every_how_to_is_linked(page: str) -> None:
    text = (PROJECT / page).read_text()
    names = [path.name for path in (PROJECT / "docs" / "how-to").glob("*.md")]
    assert [name for name in names if f"how-to/{name})" not in text] == []


def test_architecture_names_rooms_and_files() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text()
    table = text.split("## Rooms", 1)[1].split("Where to look", 1)[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == ROOMS
    files = re.findall(r"`([\w/]+\.py)`", text)
    places = (PROJECT, PROJECT / "src" / "ppssl")
    assert [f for f in files if not any((place / f).is_file() for place in places)] == []


@pytest.mark.parametrize("page", having("bash"))
def test_commands_are_parsed(page: str, folder: Path, only_parse: None) -> None:
    save_files(page)
    for block in blocks(page, "bash"):
        for words in commands(block):
            arguments = ppssl_arguments(words)
            if arguments is not None:
                with pytest.raises(Parsed):
                    main([*arguments, "--debug"])
            elif words[0] == "make":
                assert f"\n{words[1]}:" in (PROJECT / "Makefile").read_text()
            else:
                assert words[:2] == ["pip", "install"], words
    capture = [
        word for block in blocks(page, "bash") for words in commands(block) for word in words
    ]
    studies = [word for word in capture if word.startswith("experiments/ablation/")]
    assert all((PROJECT / study).is_file() for study in studies)


def test_a_wrong_option_is_found(folder: Path, only_parse: None) -> None:
    assert main(["fit", "--config", "ppssl:folder/pretrain", "--model.backbon=resnet18"]) == 2
    assert main(["evaluate", "path/to/last.ckpt", "--labels", "1"]) == 2


@pytest.mark.parametrize(
    "page",
    [
        page if page == FAST else pytest.param(page, marks=pytest.mark.slow)
        for page in having("bash")
        if page != LITERATURE
    ],
)
def test_commands_run(page: str, folder: Path) -> None:
    save_files(page)
    for block in blocks(page, "bash"):
        for words in commands(block):
            if words[0] == "ppssl" and not block.needs:
                assert main([*small(words[1:]), "--debug"]) == 0, words


def check_study(code: str) -> None:
    """A study is read, and the options of its variants are parsed."""
    Path("study.yaml").write_text(code)
    check_options([(run, ()) for run in load_study("study.yaml").runs()])


@pytest.mark.parametrize("page", having("yaml"))
def test_recipes_are_parsed(page: str, folder: Path, request: pytest.FixtureRequest) -> None:
    for block in blocks(page, "yaml"):
        if "recipe" in yaml.safe_load(block.code):
            check_study(block.code)
            continue
        assert set(yaml.safe_load(block.code)) <= {"trainer", "model", "data", "checkpoint"}
        Path("recipe.yaml").write_text(block.code)
        if block.needs:
            continue
        request.getfixturevalue("only_parse")
        with pytest.raises(Parsed):
            main(["fit", "--config", "recipe.yaml", "--debug"])


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG_PYTHON)) for p in having("python")],
)
def test_python_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.nabirds(folder / "path" / "to")
    layouts.dogs(folder / "path" / "to" / "dogs")
    for split in ("train", "test"):
        write_shards(Path("path/to/images", split), Path("path/to", f"{split}-{{000..001}}.tar"))
    module = ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    for block in blocks(page, "python"):
        if is_there(block.needs):
            exec(compile(small_code(block.code), page, "exec"), names)
    for check in CHECKS.get(page, ()):
        check(names)


def encoder_is_a_timm_model(names: dict[str, Any]) -> None:
    """README: what ``load_encoder`` gives."""
    import torch

    assert names["encoder"](torch.zeros(2, 3, 64, 64)).shape == (2, 512)


def plugin_trains(names: dict[str, Any]) -> None:
    """The plugin's term and its log are logged."""
    from lightning.pytorch import Trainer

    from ppssl import PPSSL, FolderDataModule

    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=1, log_every_n_steps=1, logger=False, **quiet)
    data = FolderDataModule("path/to/images", image_size=32, batch_size=8, num_workers=0)
    model = PPSSL(backbone="resnet_small", plugins={"unit": names["UnitLength"]()})
    trainer.fit(model, data)
    assert {"train/loss_unit", "train/unit_length"} <= set(trainer.logged_metrics)
    model = names["Rotations"](share=0.3, backbone="resnet_small")
    trainer = Trainer(max_steps=1, log_every_n_steps=1, logger=False, **quiet)
    trainer.fit(model, data)
    assert "train/loss_turn" in trainer.logged_metrics


def base_trains(names: dict[str, Any]) -> None:
    """A base of one's own, with IADM."""
    from lightning.pytorch import Trainer

    assert type(names["model"].contrastive).__name__ == "SimSiam"
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=4, max_epochs=4, log_every_n_steps=1, logger=False, **quiet)
    trainer.fit(names["model"], names["data"])
    assert {"train/loss_iadm", "train/loss_contrastive"} <= set(trainer.logged_metrics)


def sets_become_class_folders(names: dict[str, Any]) -> None:
    """NABirds and Stanford Dogs, each image in its class and split."""
    from ppssl import FolderDataModule

    for name, classes in (("nabirds", 3), ("dogs", 2)):
        data = FolderDataModule(f"path/to/{name}-split", image_size=32, batch_size=4)
        data.setup()
        for split, count in (("train", layouts.TRAIN), ("test", layouts.TEST)):
            source = data.sources[split]
            wanted = sorted(list(range(classes)) * count)
            assert source.labels.tolist() == wanted
            assert [layouts.class_of(source.load(i)) for i in range(len(source))] == wanted


def examples_are_short(names: dict[str, Any]) -> None:
    """At most 15 lines for each part."""
    page = "docs/how-to/bring-your-own.md"
    for block in blocks(page, "python"):
        assert len([line for line in block.code.splitlines() if line.strip()]) <= 15, block.code
    assert names["embedding"].shape == (1, 32)


CHECKS: dict[str, tuple[Callable[[dict[str, Any]], None], ...]] = {
    "README.md": (encoder_is_a_timm_model,),
    "docs/how-to/bring-your-own.md": (examples_are_short,),
    "docs/how-to/your-loss.md": (plugin_trains,),
    "docs/how-to/your-base.md": (base_trains,),
    "docs/data-sets.md": (sets_become_class_folders,),
}


def anchors(text: str) -> Iterator[str]:
    """The names that other pages and docstrings refer to."""
    return iter(re.findall(r"^\((\w+)\)=$", text, flags=re.MULTILINE))


def test_facts_and_decisions_have_anchors() -> None:
    found = list(anchors((PROJECT / "docs" / "method.md").read_text()))
    assert len(found) == len(set(found))
    assert {f"f{i}" for i in range(1, 11)} | {f"d{i}" for i in range(1, 23)} <= set(found)
    used = {
        name.lower()
        for path in (PROJECT / "src").rglob("*.py")
        for name in re.findall(r":ref:`[^`<]*<(\w+)>`", path.read_text())
    }
    assert used <= set(found)
