"""The command line, in process: what it prints, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from command_line import RECIPE, error_line, fit_arguments
from ppssl.cli.main import COMMANDS, TRAINER_COMMANDS, main
from ppssl.studies.error_messages import describe_error


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images and the folder of one run on them."""
    from PIL import Image

    root = tmp_path_factory.mktemp("cli")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in range(3):
            folder = root / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 200, (40, 48, 3), generator=generator, dtype=torch.uint8)
                pixels[..., label] += 55
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.jpg")
    assert main(fit_arguments(root / "images", root / "run")) == 0
    return root / "images", root / "run"


def _last(run: Path) -> Path:
    (path,) = run.rglob("last.ckpt")
    return path


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = "import sys; from ppssl.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"  {name} " in done.stdout for name in TRAINER_COMMANDS | COMMANDS)


@pytest.mark.parametrize("command", ["fit", "embed", "ablate", "corpus"])
def test_interrupted_while_it_is_imported_nothing_is_to_be_continued(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ppssl.cli.main.import_module", interrupt)
    assert main([command, "--help"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_interrupted_before_the_training_nothing_is_to_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "stopping.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fit", "--config", "ppssl:folder/pretrain", "--data=stopping.Data"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted."


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_interrupted_later_it_says_how_to_continue(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt(*args: Any) -> None:
        raise error

    monkeypatch.setattr("ppssl.cli.commands.ablate.load_study", interrupt)
    assert main(["ablate", "study.yaml", "--out", "runs"]) == code
    event = "Interrupted" if code == 130 else "Terminated"
    expected = f"{event}; the same command continues: finished runs are kept.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "command",
    [
        *TRAINER_COMMANDS,
        *sorted(COMMANDS.keys() - {"bench"}),
        *(f"bench {name}" for name in ("step", "loader", "evaluate", "saliency")),
    ],
)
def test_every_command_has_help_with_an_example(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert "Example: ppssl" in shown.replace("\n", " ")
    assert "<function" not in shown  # in place of the name of a type


def test_fit_leaves_checkpoint_config_and_events(trained: tuple[Path, Path]) -> None:
    _, run = trained
    assert torch.load(_last(run), weights_only=True)["global_step"] == 3
    assert list(run.rglob("config.yaml"))
    assert list(run.rglob("events.out.tfevents*"))


def test_validate_repeats_what_fit_logged_last(
    trained: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    images, _ = trained
    logger = "--trainer.logger={class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: %s}}"
    assert main(fit_arguments(images, tmp_path / "run", logger % (tmp_path / "fit"))) == 0
    again = [
        *fit_arguments(images, tmp_path / "again", logger % (tmp_path / "again"))[1:],
        "--ckpt_path",
        str(_last(tmp_path)),
    ]
    assert main(["validate", *again]) == 0

    def read(folder: Path) -> dict[str, float]:
        (path,) = folder.rglob("metrics.csv")
        header, *rows = [line.split(",") for line in path.read_text().splitlines()]
        pairs = [
            (name, value) for row in rows for name, value in zip(header, row, strict=True) if value
        ]
        return {name: float(value) for name, value in pairs if name.startswith("val/")}

    first, second = read(tmp_path / "fit"), read(tmp_path / "again")
    assert set(first) == {
        "val/knn_top1",
        "val/retrieval_rank1",
        "val/retrieval_rank5",
        "val/retrieval_map",
        "val/rankme",
    }
    assert second == pytest.approx(first, abs=1e-4)


def test_evaluate_prints_and_writes(
    trained: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    images, run = trained
    written = tmp_path / "results.json"
    own_data = ["evaluate", str(_last(run)), "--json", str(written)]
    assert main(own_data) == 0
    printed = capsys.readouterr().out
    first = json.loads(written.read_text())
    low, high = (f"{100 * end:.1f}" for end in first["intervals"]["mAP"])
    (row,) = (line for line in printed.splitlines() if line.startswith("│ mAP"))
    assert f"{100 * first['metrics']['mAP']:.1f} %" in row
    assert f"{low} to {high}" in row
    recipe = [
        "--data",
        str(RECIPE),
        "--data.root",
        str(images),
        "--data.image_size=32",
        "--data.num_workers=0",
    ]
    assert main([*own_data, *recipe]) == 0
    second = json.loads(written.read_text())
    assert first["metrics"] == second["metrics"]
    assert set(first["metrics"]) == {
        "knn-1",
        "knn-5",
        "knn-10",
        "knn-20",
        "linear",
        "rank-1",
        "rank-5",
        "mAP",
        "rankme",
    }
    assert first["protocol"] == "clean-1"
    assert {"seed", "units", "provenance", "schema_version", "config", "per_image"} <= set(first)


def test_resume_auto_goes_on_from_the_highest_step(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    images, _ = trained
    assert main(fit_arguments(images, tmp_path, "--resume", "auto")) == 0
    assert main(fit_arguments(images, tmp_path, "--resume", "auto", "--trainer.max_epochs=2")) == 0
    steps = {
        torch.load(path, weights_only=True)["global_step"] for path in tmp_path.rglob("*.ckpt")
    }
    assert max(steps) == 6


def test_packaged_recipe_by_name(trained: tuple[Path, Path], tmp_path: Path) -> None:
    images, _ = trained
    args = fit_arguments(images, tmp_path)
    args[2] = "ppssl:folder/pretrain"
    assert main(args) == 0


def _bad_yaml(tmp_path: Path) -> Path:
    content = yaml.safe_load(RECIPE.read_text())
    content["model"]["init_args"]["warmup_fractoin"] = 0.1
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data.root": "{images}s"}, r"images \(did you mean|not a folder: .*did you mean"),
        ({"--data.root": "{empty}"}, "No images in"),
        ({"--data.batch_siez": "3"}, "batch_siez.*batch_size"),
        ({"--model.lrr": "3"}, "lrr.*lr"),
        ({"--trainer.max_epcohs": "3"}, "max_epcohs.*max_epochs"),
        ({"--modle.lr": "3"}, r"modle.*model\.lr"),
        ({"--model.backbone": "resnet81"}, r"timm has no model `resnet81` \(did you mean"),
        (
            {"--data.batch_size": "1000"},
            "`batch_size` 1000 is larger than the data set of 24 training images",
        ),
        ({"--data.batch_size": "many"}, "batch_size.*many"),
        (
            {"--config": "experiments/folder/pretrian.yaml"},
            "No such config: experiments/folder/pretrian.yaml",
        ),
        ({"--config": "ppssl:folder/pretrian"}, r"did you mean ppssl:folder/pretrain\?"),
        ({"--config": "{typo}"}, "warmup_fractoin.*warmup_fraction"),
        ({"--model.optimizer": "adma"}, "optimizer.*adma"),
        ({"--model.lr": "-1"}, "`lr` must be > 0, got -1"),
        ({"--resume": "nowhere.ckpt"}, "no such checkpoint: nowhere.ckpt"),
        (
            {"--trainer.precision": "bf16-true"},
            "`trainer.precision` bf16-true is not supported: .* `bf16-mixed`",
        ),
    ],
)
def test_bad_input_is_one_line_and_two(
    change: dict[str, str], message: str, trained: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    import re

    images, _ = trained
    (tmp_path / "empty").mkdir()
    names = {"images": images, "empty": tmp_path / "empty", "typo": _bad_yaml(tmp_path)}
    args = fit_arguments(images, tmp_path / "run")
    for option, value in change.items():
        value = value.format(**names)
        if option == "--config":
            args[args.index("--config") + 1] = value
        else:
            args += [option, value]
    assert main(args) == 2
    line = error_line(capsys)
    assert re.search(message, line), line


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_truncated_image_is_named(
    workers: int, trained: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    import shutil

    images = tmp_path / "images"
    shutil.copytree(trained[0], images)
    broken = images / "train" / "class1" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    assert main([*fit_arguments(images, tmp_path / "run"), f"--data.num_workers={workers}"]) == 2
    line = error_line(capsys)
    assert str(broken) in line
    assert "on_error: skip" in line
    with pytest.warns(UserWarning, match="Skipped .*3.jpg"):
        assert main([*fit_arguments(images, tmp_path / "skipped"), "--data.on_error=skip"]) == 0


def test_a_classifier_is_trained_and_tested_by_its_recipe(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    images, run = trained
    logger = "--trainer.logger={class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: %s}}"
    own = [
        *fit_arguments(images, tmp_path / "run", logger % (tmp_path / "logs"))[1:],
        "--model.pretrained",
        str(_last(run)),
    ]
    own[1] = "ppssl:folder/finetune"
    assert main(["fit", *own]) == 0
    last = _last(tmp_path / "logs")
    assert torch.load(last, weights_only=True)["ppssl"]["classes"] == ["class0", "class1", "class2"]
    assert list(tmp_path.rglob("figures/val-confusion-*.png"))
    assert main(["test", *own, "--ckpt_path", str(last)]) == 0
    assert list(tmp_path.rglob("figures/test-confusion-*.png"))
    assert any("test/macro" in path.read_text() for path in tmp_path.rglob("metrics.csv"))


def test_evaluate_prints_rows(trained: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    images, run = trained
    written, file = tmp_path / "results.json", tmp_path / "e.parquet"
    rows = ["--label-fraction", "1", "0.5", "--json", str(written)]
    assert main(["evaluate", str(_last(run)), *rows, "--random"]) == 0
    own = json.loads(written.read_text())["rows"]
    assert [(row["encoder"], row["label_fraction"]) for row in own] == [
        ("checkpoint", 1.0),
        ("checkpoint", 0.5),
        ("random", 1.0),
        ("random", 0.5),
    ]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    for row, line in zip(own, lines, strict=True):
        assert row["encoder"] in line
        assert f"{100 * row['metrics']['mAP']:.1f}" in line
        few = row["label_fraction"] < 1  # 12 images are the gallery
        assert ("knn-20" not in row["metrics"]) == (" - " in line) == few
    assert main(["embed", str(_last(run)), "--out", str(file)]) == 0
    assert main(["evaluate", str(file), *rows]) == 0
    found = json.loads(written.read_text())["rows"]
    assert [r["metrics"] for r in found] == [pytest.approx(r["metrics"]) for r in own[:2]]
    capsys.readouterr()
    for wrong, message in (
        (["--random"], "need a checkpoint and a data set, not a file of embeddings"),
        (["--data", str(RECIPE), "--data.root", str(images)], "remove `--data`"),
        (["--feature", "branch"], "holds `gap` embeddings"),
        (["--protocol", "lcr-2023"], "is of checkpoints"),
    ):
        assert main(["evaluate", str(file), *wrong]) == 2
        assert message in error_line(capsys)


def test_evaluate_follows_lcr(trained: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    _, run = trained
    written, lcr = tmp_path / "results.json", ["--protocol", "lcr-2023"]
    assert main(["evaluate", str(_last(run).parent), *lcr, "--json", str(written)]) == 0
    content = json.loads(written.read_text())
    assert content["protocol"] == "lcr-2023"
    printed = capsys.readouterr().out
    assert "best-on-test-linear" in printed
    assert content["metrics"]["linear"] <= content["metrics"]["best-on-test-linear"]
    for wrong, message in (
        ([str(_last(run)), "--random"], "`lcr-2023` has one row"),
        ([str(tmp_path)], "No checkpoint (*.ckpt) in the folder"),
        ([str(_last(run)), "--feature", "branch"], "was trained without IADM"),
    ):
        assert main(["evaluate", *wrong, *lcr]) == 2
        assert message in error_line(capsys)


def test_embed_then_neighbours(trained: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    images, run = trained
    out, picture = tmp_path / "e.parquet", tmp_path / "n.png"
    assert main(["embed", str(_last(run)), "--out", str(out), "--data.num_workers=0"]) == 2
    assert "--data" in error_line(capsys)
    assert main(["embed", str(_last(run)), "--out", str(out)]) == 0
    assert "36" in capsys.readouterr().out
    query = str(images / "train" / "class1" / "2.jpg")
    where = ["--embeddings", str(out), "--checkpoint", str(_last(run)), "--out", str(picture)]
    assert main(["neighbours", query, *where, "--k", "3"]) == 0
    assert "1.000" in capsys.readouterr().out
    assert picture.is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fti"], r"No such command: fti \(did you mean fit\?\)"),
        (["evaluate", "nowhere.ckpt"], "No such checkpoint: nowhere.ckpt"),
        (["evaluate"], "checkpoint"),
        (["ablate", "nowhere.yaml", "--out", "x"], "No such config: nowhere.yaml"),
        (["bench", "step", "--batch-size", "0"], "`batch_size` must be >= 1, got 0"),
        (["demo", "--sede", "3"], "sede.*seed"),
        (["embed", "nowhere.ckpt", "--out", "x.parquet"], "No such checkpoint: nowhere.ckpt"),
        (["export", "nowhere.ckpt", "--to", "timm", "--out", "x"], "No such checkpoint"),
        (["export", "nowhere.ckpt", "--to", "keras", "--out", "x"], "to.*keras"),
    ],
)
def test_other_commands_fail_as_clearly(args: list[str], message: str, capsys: Any) -> None:
    import re

    assert main(args) == 2
    line = error_line(capsys)
    assert re.search(message, line), line


def test_what_is_no_checkpoint_or_no_image_is_said(
    trained: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    images, run = trained
    image, out = str(images / "test" / "class1" / "2.jpg"), str(tmp_path / "out")
    own, file = str(_last(run)), str(tmp_path / "e.parquet")
    assert main(["embed", own, "--out", file]) == 0
    where = ["--embeddings", file, "--checkpoint", own]
    for args, message in (
        (["evaluate", image], "cannot be read as a checkpoint"),
        (["embed", image, "--out", f"{out}.parquet"], "cannot be read as a checkpoint"),
        (["export", image, "--to", "timm", "--out", out], "cannot be read as a checkpoint"),
        (["evaluate", own, "--device", "graphics"], "`device` graphics cannot be used"),
        (["neighbours", file, *where], "not an image in a format that Pillow reads"),
        (["neighbours", str(images / "no.jpg"), *where], "No such file or directory"),
        (["neighbours", image, "--embeddings", image, *where[2:]], "Write one with `ppssl embed`"),
        (["explain", file, "--out", out], "images"),
        (["explain", own, file, "--out", out], "Cannot read"),
        (["evaluate", own, "--imagenet", image], "cannot be read as weights"),
        (["evaluate", own, "--imagenet", "nowhere.pth"], "no such file: nowhere.pth"),
    ):
        assert main(args) == 2, args
        assert message in error_line(capsys), args
    assert not Path(out).exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from ppssl import UserError

    with pytest.raises(UserError, match="No such config"):
        main(["fit", "--config", "nowhere.yaml", "--debug"])


@pytest.mark.timeout(600)
def test_interruption_is_130_and_keeps_the_checkpoint(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """A real SIGINT to a real process."""
    import signal
    import time

    args = fit_arguments(trained[0], tmp_path, "--trainer.max_epochs=10000")
    process = subprocess.Popen(
        [sys.executable, "-m", "ppssl", *args],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 250
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=250)
    assert process.returncode == 130, err.decode()[-2000:]
    assert b"Traceback" not in err
    assert (
        max(torch.load(p, weights_only=True)["global_step"] for p in tmp_path.rglob("*.ckpt")) >= 3
    )


@pytest.mark.parametrize(
    "said",
    [
        "[.../unbound_buffer.cc:81] Timed out waiting 20000ms for recv operation to complete",
        "[.../pair.cc:553] writev [10.0.0.2]:4711: Network is unreachable",
        "[.../pair.cc:463] Read error [10.0.0.2]:4711: Connection timed out",
        "[/torch/third_party/gloo/gloo/transport/tcp/pair.cc:446] Read error: any error of a socket",
        "failed to recv, got 0 bytes",
        "Connection was likely closed. Did the remote server shutdown or crash?",
        "wait timeout after 20000ms, keys: /default_pg/0/0",
        "[.../pair.cc:544] Connection closed by peer [10.77.0.1]:22001",
        "Application timeout caused pair closure",
        "Connect timeout [10.77.0.1]:22001",
        "waitForInput: socket 5 timed out after 20000ms",
        "[.../pair.cc:1] Broken pipe",
    ],
)
def test_a_process_that_is_gone_is_one_line(said: str) -> None:
    code, message = describe_error(RuntimeError(said))
    assert code == 1
    assert message is not None
    assert message.startswith(f"Lost another process: {said}.")
    assert "`--resume auto`" in message
    others = ("something else", "DataLoader timed out after 5 seconds")
    assert all(describe_error(RuntimeError(other)) == (1, None) for other in others)
