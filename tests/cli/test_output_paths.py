"""Output paths: tried before the work begins; what was computed is printed whatever happens to the files."""

import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
from PIL import Image

from command_line import TINY, error_line
from output_options import FIT, IDS, OUTPUTS, PICKS, WHERE
from ppssl import SyntheticDataModule, embed
from ppssl.cli.main import COMMANDS, main
from ppssl.text.bank_file import obtain
from ppssl.utils.errors import UserError

WRITES = re.compile(
    r"(?i)\bdraw\b|\bwrite\b(?! \w+ with)|to write|folder (for|to create)|to this file"
)


class _Parsed(Exception):
    """Carries the parser of a command."""


def _parsers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, jsonargparse.ArgumentParser]]:
    """The parser of each command and subcommand."""

    def stop(parser: Any, *args: Any, **kwargs: Any) -> None:
        raise _Parsed(parser)

    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", stop)
    for command in COMMANDS:
        with pytest.raises(_Parsed) as stopped:
            main([command, "--debug"])
        (parser,) = stopped.value.args
        subcommands = parser._subcommands_action
        if subcommands is None:
            yield command, parser
        else:
            for name, subparser in subcommands._name_parser_map.items():
                yield f"{command} {name}", subparser


def test_every_output_option_is_below(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = {
        (command, argument.partition("=")[0])
        for command, arguments, _ in OUTPUTS
        for argument in arguments
        if "{place}" in argument
    }
    options = {
        (command, action.option_strings[0])
        for command, parser in _parsers(monkeypatch)
        for action in parser._actions
        if action.option_strings and WRITES.search(action.help or "")
    }
    assert options
    assert options <= tested


def _tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def _file_where_a_folder_must_be(folder: Path, kind: str) -> str:
    (folder / "file").write_text("mine")
    return str(folder / "file" / "below" / "place")


def _wrong_kind(folder: Path, kind: str) -> str:
    place = folder / "place"
    for taken in (place, folder / "place.png", folder / "place.jsonl"):
        if kind == "file":
            taken.mkdir()
        else:
            taken.write_text("mine")
    return str(place)


def _system_folder(folder: Path, kind: str) -> str:
    return "/proc/missing/place"


def _long_name(folder: Path, kind: str) -> str:
    return str(folder / ("long" * 100))


BAD = [_file_where_a_folder_must_be, _wrong_kind, _system_folder, _long_name]
PLACES = [
    pytest.param(*output, bad, id=f"{name}-{bad.__name__}")
    for i, (output, name) in enumerate(zip(OUTPUTS, IDS, strict=True))
    # `fit` stands for all that share its parser: they have each option and each bad place once
    for bad in (BAD[i % 4 : i % 4 + 1] if output[0] in ("validate", "test", "predict") else BAD)
]


@pytest.mark.parametrize(("command", "arguments", "kind", "bad"), PLACES)
def test_a_bad_place_is_refused_before_the_work(
    command: str,
    arguments: list[str],
    kind: str,
    bad: Callable[[Path, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    place = bad(tmp_path, kind)
    assert _refused(command, arguments, place, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(("command", "arguments", "kind"), OUTPUTS, ids=IDS)
def test_a_full_disk_is_noticed_before_the_work(
    command: str,
    arguments: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    def full(self: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    line = _refused(command, arguments, str(tmp_path / "place"), tmp_path, monkeypatch, capsys)
    assert "No space left on device" in line


def _refused(
    command: str,
    arguments: list[str],
    place: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> str:
    """Run a command whose inputs do not exist: the line that it refuses the place with, and nothing was written."""
    monkeypatch.chdir(folder)
    names, study = folder / "names.txt", folder / "study.yaml"
    names.write_text("wren\n")
    study.write_text("recipe: ppssl:synthetic/pretrain\nseeds: [0]\n")
    values = {"place": place, "names": names, "study": study, "other": folder / "other"}
    filled = [
        argument.format(**values) if "{" in argument and argument not in TINY else argument
        for argument in arguments
    ]
    before = _tree(folder)
    assert main([*command.split(), *filled]) == 2
    line = error_line(capsys)
    assert line.startswith("ppssl: Cannot write "), line
    assert _tree(folder) == before
    return line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate a.png --json a.png", "`--json` would replace an input: a.png"),
        ("embed a.png --out ./a.png", "`--out` would replace an input: ./a.png"),
        ("report b.png a.png --out a.png", "`--out` would replace an input"),
        ("duplicates b.png --out a.png --json a.png", "replace the result of `--out`: a.png"),
        ("duplicates link --json a.png", "`--json` would replace an input"),
        ("neighbours a.png --embeddings e --checkpoint c --out a.png", "replace an input: a.png"),
        ("neighbours b.png --embeddings e --checkpoint a.png --out a.png", "replace an input"),
        ("corpus inspect a.png --json a.png", "`--json` would replace an input"),
        ("corpus inspect birds --teacher x --images a.png --out a.png", "would replace an input"),
        ("doctor --config a.png --json a.png", "`--json` would replace an input"),
        ("bench loader --make 64x48 --json a.png --picture a.png", "the result of `--json`"),
    ],
)
def test_no_result_replaces_an_input_or_another(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Path(name).write_text("mine")
    Path("link").symlink_to("a.png")
    assert main(line.split()) == 2
    assert message in error_line(capsys)
    assert Path("a.png").read_text() == "mine"


@pytest.mark.parametrize("name", ["n.xyz", "n"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("corpus inspect", [*PICKS, "--out"]),
        ("neighbours", ["nowhere.jpg", *WHERE, "--out"]),
        ("bench loader", ["--picture"]),
    ],
)
def test_an_ending_that_is_no_figure(
    command: str, arguments: list[str], name: str, tmp_path: Path, capsys: Any
) -> None:
    assert main([*command.split(), *arguments, str(tmp_path / name)]) == 2
    assert ".png" in error_line(capsys)
    assert _tree(tmp_path) == []


@pytest.mark.parametrize("name", ["e.csv", "e", "e.parquet.gz", "e.PARQUET"])
def test_an_ending_that_is_no_parquet(name: str, tmp_path: Path, capsys: Any) -> None:
    place = str(tmp_path / name)
    assert main(["embed", "nowhere.ckpt", "--out", place]) == 2
    line = error_line(capsys)
    assert line.startswith(f"ppssl: {place} is written as Parquet, and has another ending: name it")
    assert line.endswith(".parquet.")
    with pytest.raises(UserError, match="written as Parquet"):
        embed("nowhere.ckpt", SyntheticDataModule(), place)
    assert _tree(tmp_path) == []


def test_a_bank_is_tried_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    def make() -> None:
        raise AssertionError("the work began")

    with pytest.raises(UserError, match="Cannot write"):
        obtain(tmp_path / "file" / "texts.npy", {}, make)


def test_a_trial_run_needs_no_place(tmp_path: Path, image_folder: Path) -> None:
    (tmp_path / "file").write_text("mine")
    root = ["--data.root", str(image_folder), f"--trainer.default_root_dir={tmp_path / 'file'}"]
    assert (
        main(
            [
                "fit",
                *FIT,
                *root,
                "--trainer.fast_dev_run=true",
                "--model.backbone=resnet_small",
                "--model.pretrained=false",
            ]
        )
        == 0
    )


SMALL = ["--data.train_size=160", "--data.test_size=40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Checkpoint of a short run, its embeddings, and an image."""
    folder = tmp_path_factory.mktemp("trained")
    args = ["--config", "ppssl:synthetic/pretrain", f"--trainer.default_root_dir={folder}"]
    assert main(["fit", *args, *TINY, *SMALL]) == 0
    (last,) = folder.rglob("last.ckpt")
    assert main(["embed", str(last), "--out", str(folder / "e.parquet")]) == 0
    Image.new("RGB", (40, 40), "red").save(folder / "image.png")
    return str(last), str(folder / "e.parquet"), str(folder / "image.png")


TABLES = [
    ("evaluate", ["{last}", "--json"], "mAP"),
    ("evaluate", ["{last}", "--label-fraction", "1", "--json"], "checkpoint"),
    ("corpus inspect", ["birds", "--json"], "phrasings"),
    (
        "bench evaluate",
        ["--train=20", "--test=10", "--classes=2", "--dim=4", "--repeats=1", "--json"],
        "retrieval",
    ),
]


@pytest.mark.parametrize(("command", "arguments", "printed"), TABLES)
def test_the_table_is_printed_if_its_json_cannot_be_written(
    command: str, arguments: list[str], printed: str, trained: tuple[str, str, str], capsys: Any
) -> None:
    filled = [argument.format(last=trained[0]) for argument in arguments]
    capsys.readouterr()
    assert main([*command.split(), *filled, "/dev/full"]) == 2
    out, err = capsys.readouterr()
    assert printed in out, err
    assert "Traceback" not in err
    assert "ppssl: Cannot write /dev/full: No space left on device" in err
    assert not Path("/dev/full").is_file()


FIGURES = [
    (
        "corpus inspect",
        ["birds", "--teacher", "synthetic-clip", "--images", "{image}"],
        "phrasings",
    ),
    (
        "neighbours",
        [
            "{image}",
            "--k=2",
            "--embeddings={embeddings}",
            "--checkpoint={last}",
            "--data=ppssl:synthetic/pretrain",
            *SMALL,
        ],
        "similarity",
    ),
    ("demo", [option for option in TINY if "val_fraction" not in option], "gain"),
]


@pytest.mark.parametrize(("command", "arguments", "printed"), FIGURES)
def test_the_table_is_printed_if_its_figure_cannot_be_written(
    command: str,
    arguments: list[str],
    printed: str,
    trained: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    names = dict(zip(("last", "embeddings", "image"), trained, strict=True))
    filled = [argument if argument in TINY else argument.format(**names) for argument in arguments]
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    if command == "demo":
        filled += [*SMALL, f"--out={tmp_path / 'demo'}"]
    else:
        filled += [f"--out={tmp_path / 'figure.png'}"]
    capsys.readouterr()
    assert main([*command.split(), *filled]) == 2
    out, err = capsys.readouterr()
    assert printed in out, err
    assert "Traceback" not in err
    assert re.search(r"ppssl: Cannot write \S+\.png: No space left on device", err), err
