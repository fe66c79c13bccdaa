"""Command lines that are wrong: one line that says what is wrong with which value, exit code 2, no traceback."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import error_line, fit_arguments
from ppssl.cli.main import main
from ppssl.studies.error_messages import describe_error
from ppssl.studies.lightning_cli import build_recipe
from ppssl.utils.errors import ArgumentError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images, a run on them, and files that are no checkpoints of it."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("bad-options")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(3):
            folder = root / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                    folder / f"{i}.png"
                )
    assert main(fit_arguments(root / "images", root / "run")) == 0
    (root / "text.ckpt").write_text("hello")
    (root / "empty.ckpt").write_bytes(b"")
    (root / "number.yaml").write_text("model: 3")
    (root / "null.yaml").write_text("data: {init_args: {batch_size: null}}")
    torch.save({"a": 1}, root / "other.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, root / "foreign.ckpt")
    (last,) = (root / "run").rglob("last.ckpt")
    (root / "torn.ckpt").write_bytes(last.read_bytes()[:5000])
    return {"root": root, "images": root / "images", "last": last}


TRAINER = {
    "strategy=foo": "invalid strategy name: `strategy='foo'`",
    "accelerator=foo": "invalid accelerator name: `accelerator='foo'`",
    "devices=foo": "`devices` .* should be an int > 0",
    "devices=0": r"`Trainer\(devices='0'\)` value is not a valid input",
    "num_nodes=0": "`num_nodes` must be a positive integer, but got 0",
    "precision=foo": r"`trainer\.precision`: expected one of .*'bf16-mixed'.*, got foo",
    "profiler=foo": "'simple', 'advanced'",
    "logger=foo": r"`trainer\.logger`: expected the class path of a Logger.*, got foo",
    "callbacks=foo": r"`trainer\.callbacks`: expected a list or the class path of a Callback",
    "max_time=5": r"duration='5'.* DD:HH:MM:SS",
    "max_epochs=abc": r"`trainer\.max_epochs`: expected an integer or null, got abc",
    "max_epochs=-1": r"`trainer\.max_epochs` -1 .* `trainer\.max_steps`",
    "max_epochs=-7": "`max_epochs` must be a non-negative integer or -1. You passed in -7",
    "enable_progress_bar=abc": r"`trainer\.enable_progress_bar`: expected true or false or null",
    "accumulate_grad_batches=0": r"`trainer\.accumulate_grad_batches` must be >= 1, got 0",
    "check_val_every_n_epoch=0": r"`trainer\.check_val_every_n_epoch` must be >= 1, got 0",
    "val_check_interval=0": r"`trainer\.val_check_interval` must be > 0, got 0",
    "gradient_clip_val=-1": r"`trainer\.gradient_clip_val` must be >= 0, got -1",
    "gradient_clip_algorithm=foo": "`gradient_clip_algorithm` foo is invalid",
    "log_every_n_steps=-1": r"`trainer\.log_every_n_steps` must be >= 0, got -1",
    "limit_train_batches=-3": "invalid value -3 for limit_train_batches",
}
OTHERS = {
    "--model=Foo": "`model`: expected the class path of a LightningModule or null, got Foo",
    "--model.class_path=foo.Bar": "`model.class_path`: No module named 'foo'",
    "--model.compile_encoder=maybe": r"`model\.compile_encoder`: expected true or false, got maybe",
    "--model.pretrained=[1]": r"`model\.pretrained`: expected true or false or text, got \[1\]",
    "--model.lr=abc": r"`model\.lr`: expected a number or null, got abc",
    "--model.plugins=ais": r"`model\.plugins`: expected a mapping or null, got ais",
    "--model.contrastive=5": r"`model\.contrastive`: expected the class path of a Contrastive",
    "--model.contrastive.queue_size=foo": r"`model\.contrastive\.queue_size`: expected an integer",
    "--model.contrastive.class_path=ppssl.AIS": r"AIS does not correspond to a subclass of Contr",
    "--model.optimizer=5": r"`model\.optimizer`: expected one of 'sgd', 'adamw', 'lars', got 5",
    "--data=Foo": "`data`: expected the class path of a LightningDataModule or null, got Foo",
    "--data.augmentation.crop_scale=3": r"`data\.augmentation\.crop_scale`: expected a list, got 3",
    "--data.image_size=[3]": r"`data\.image_size`: expected an integer, got \[3\]",
    "--data.augmentation=5": r"`data\.augmentation`: expected the class path of a MoCoV2Augmentation or a function",
    "--data.augmentation=no.such": "`data.augmentation`: No module named 'no'",
    "--data.batch_size=null": "`data.batch_size` cannot be null: leave it out for its default",
    "--data.val_fraction=None": "`data.val_fraction` cannot be null",
    "--data.augmentation.flip_probability=null": r"`data\.augmentation\.flip_probability` cannot be null",
    "--model.sgd_momentum=null": r"`model\.sgd_momentum` cannot be null",
    "--model.contrastive.temperature=null": r"`model\.contrastive\.temperature` cannot be null",
    "--model.plugins.anchor.loss_weight=null": r"`model\.plugins\.anchor\.loss_weight` cannot be null",
    "--config={root}/null.yaml": r"`data\.batch_size` cannot be null",
    "--data.image_size=0": "`image_size` must be >= 1, got 0",
    "--seed_everything=-1": "A seed must be from 0 to 4294967295, got -1",
    "--config={root}/empty.ckpt": "empty.ckpt is no recipe: .* and is empty",
    "--config={root}/text.ckpt": "text.ckpt is no recipe: .* and is plain text",
    "--config={last}": "last.ckpt is not valid YAML",
    "--config={root}/number.yaml": "`model`: expected the class path of a LightningModule .* got 3",
    "--config={images}": "No such config: ",
    "--seed_everything=abc": "`seed_everything`: expected true or false or an integer, got abc",
    "--checkpoint.every_n_train_steps=0": "`every_n_train_steps` must be >= 1, got 0",
    "--checkpoint.train_time_interval=abc": r"a time such as 00:05:00 or null, got abc",
    "--ckpt_path={root}/nowhere.ckpt": "`--ckpt_path`: no such checkpoint: .*nowhere.ckpt",
    "--ckpt_path={root}/otherr.ckpt": r"no such checkpoint: .*did you mean other.ckpt\?",
    "--ckpt_path={root}/run": "`--ckpt_path`: .* is a folder: give the file, such as .*last.ckpt",
    "--ckpt_path={images}": "is a folder: give the file, but there is no checkpoint in it",
    "--ckpt_path={root}/text.ckpt": "text.ckpt cannot be read as a checkpoint: it is damaged",
    "--ckpt_path={root}/empty.ckpt": "empty.ckpt cannot be read as a checkpoint",
    "--ckpt_path={root}/torn.ckpt": "torn.ckpt cannot be read as a checkpoint",
    "--ckpt_path={root}/other.ckpt": "other.ckpt is no checkpoint of a run",
    "--ckpt_path={root}/foreign.ckpt": "no checkpoint of ppssl: it has no `ppssl` entry",
    "--ckpt_path=best": "`--ckpt_path`: no such checkpoint: best",
    "--resume={root}/run": "`--resume`: .* is a folder: give the file, such as .*last.ckpt",
    "--resume={root}/text.ckpt": "text.ckpt cannot be read as a checkpoint",
}


ROWS = [*((f"--trainer.{option}", message) for option, message in TRAINER.items()), *OTHERS.items()]


@pytest.mark.parametrize(
    ("option", "message"),
    # every second one by default: each takes as long as the start of a run
    [pytest.param(*row, marks=[pytest.mark.slow] * (i % 2)) for i, row in enumerate(ROWS)],
)
def test_a_wrong_option_is_one_line(
    option: str, message: str, made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    assert main(fit_arguments(made["images"], tmp_path, option.format(**made))) == 2
    line = error_line(capsys)
    assert re.search(message, line), line
    assert "<class" not in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("value", ["null", "None", "~"])
def test_null_is_taken_where_it_is_a_value(value: str, made: dict[str, Path]) -> None:
    """Of arguments of objects in objects too."""
    images = [f"--data.root={made['images']}", "--model.plugins.ais.corpus=birds"]
    options = ["contrastive.hidden_dim", "plugins.ais.top_k", "plugins.ais.whiten", "lr"]
    nulls = [f"--model.{option}={value}" for option in options]
    built = build_recipe("ppssl:folder/pretrain", [*images, *nulls, f"--data.seed={value}"])
    model: Any = built.model
    ais = model.plugins["ais"]
    assert (model.contrastive.hidden_dim, ais.top_k, ais.whiten, model.lr) == (None,) * 4
    assert built.datamodule.seed is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{last}", "--seed=-1"], "A seed must be from 0 to"),
        (["evaluate", "{last}", "--data={last}"], "last.ckpt is not valid YAML"),
        (["embed", "{last}", "--out={root}/e.parquet", "--seed=-1"], "A seed must be from 0 to"),
        (
            ["explain", "{last}", "{images}", "--out={root}/maps", "--image-size=0"],
            "`image_size` must be >= 1, got 0",
        ),
        (["ablate", "{last}", "--out={root}/study"], "last.ckpt is not valid YAML"),
        (["--import", "./mine.py", "evaluate", "{last}"], "Give a module that is in this folder"),
        (["corpus", "inspect", "birds", "--top=-1"], "`top` must be >= 1, got -1"),
        (["corpus", "inspect", "birds", "--num-images=0"], "`num_images` must be >= 1, got 0"),
    ],
)
def test_of_other_commands(
    arguments: list[str], message: str, made: dict[str, Path], capsys: Any
) -> None:
    assert main([argument.format(**made) for argument in arguments]) == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_not_measured(
    command: str, made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    options = fit_arguments(made["images"], tmp_path)[1:]
    assert main([command, *options]) == 2
    line = error_line(capsys)
    assert f"`ppssl {command}` has random weights only: give a checkpoint with `--ckpt" in line
    finetune = ["--config", "ppssl:folder/finetune", *options[2:]]
    assert main([command, *finetune]) == 2
    assert "The classifier is not trained: give its checkpoint" in error_line(capsys)


def test_a_missing_or_another_models_checkpoint_is_not_measured(
    made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    options = fit_arguments(made["images"], tmp_path)[1:]
    assert main(["validate", *options, "--ckpt_path=last"]) == 2
    assert "`ppssl validate` has random weights only" in error_line(capsys)
    finetune = ["--config", "ppssl:folder/finetune", *options[2:]]
    assert main(["validate", *finetune, "--ckpt_path", str(made["last"])]) == 2
    assert "is of a `PPSSL`, not of a classifier" in error_line(capsys)


def test_last_is_the_newest_checkpoint_of_the_run(
    made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    options = fit_arguments(made["images"], made["root"] / "run")[1:]
    assert main(["test", *options, "--ckpt_path=last", "--trainer.logger=false"]) == 0
    assert "knn_top1" in capsys.readouterr().out


def test_only_an_argument_check_of_ours_is_bad_input() -> None:
    assert describe_error(ArgumentError("`lr` must be > 0, got -1."))[0] == 2
    accidental = ValueError("`tensor` and `other` must have the same shape.")
    assert describe_error(accidental) == (1, None)
    wrapped = RuntimeError("in a worker")
    wrapped.__cause__ = ArgumentError("`lr` must be > 0, got -1.")
    assert describe_error(wrapped) == (2, "`lr` must be > 0, got -1.")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 2, "lower `data.batch_size`"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, "num_workers"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 1, "num_workers"),
        (RuntimeError("Early stopping conditioned on metric `val/x` which is"), 2, "`val/x`"),
        (ValueError("loaded state dict has a different number of"), 2, "settings that it began"),
    ],
)
def test_what_torch_and_lightning_say_is_one_line(
    error: Exception, code: int, message: str
) -> None:
    found, line = describe_error(error)
    assert found == code
    assert line is not None
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "{last}", "--out={root}/e.parquet", "--device=meta"], "meta"),
        (
            ["embed", "{last}", "--out={root}/e.parquet", "--json=x"],
            "No such option: --json=x; see",
        ),
        (
            ["ablate", "{root}/s.yaml", "--out=x", "--jobs="],
            "expected an integer, got an empty value",
        ),
        (["fit", "--trai=x"], "`--trai` may be several options, such as --trainer"),
        (["evaluate", ""], "The path of the checkpoint is empty: name a file or folder"),
        (["evaluate", "{last}", "one more"], "One argument too many: `one more`"),
        (
            ["evaluate", "{last}", "--data.root=x"],
            "`--data.root` overrides a recipe: give `--data R",
        ),
        (["evaluate", "{root}/" + "x" * 5000], "The system refused a file: File name too long: "),
        (["fit", "--config=ppssl:folder/pretrian"], "did you mean ppssl:folder/pretrain?"),
        (["corpus", "inspect", "x" * 5000 + ".txt"], "File name too long"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: list[str], message: str, made: dict[str, Path], capsys: Any
) -> None:
    assert main([argument.format(**made) for argument in arguments]) == 2
    line = error_line(capsys)
    assert message in line
    assert len(line) < 700


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.b", "no dot, got 'a.b'"),
        ("type", "`plugins.type`: the name is taken"),  # of a method of nn.ModuleDict
        ("training", "`plugins.training`: the name is taken"),  # of an attribute of it
        ("contrastive", "`plugins.contrastive`: the name is taken"),  # of the loss of the base
    ],
)
def test_names_of_plugins_are_names_of_modules(
    name: str, said: str, made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    option = f"--model.plugins={{{name}: {{class_path: ppssl.IADM}}}}"
    assert main(fit_arguments(made["images"], tmp_path, option)) == 2
    assert said in error_line(capsys)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_no_memory_is_one_line(error: Exception) -> None:
    code, line = describe_error(error)
    assert code == 2
    assert line is not None
    assert line.startswith("Out of memory (")
