"""Rows: settings that change at resume, full disks and places that cannot be written."""

import random
from pathlib import Path

import torch

from faults.outcome import Row, World
from output_options import OUTPUTS

RESUME = "$fit $long --resume=$middle"


def last_of(here: Path) -> dict[str, object]:
    """The newest checkpoint of the row's run."""
    newest = max(here.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    return torch.load(newest, weights_only=True)


def as_the_straight_run(here: Path, world: World) -> None:
    weights = torch.load(world["final"], weights_only=True)["state_dict"]
    for name, value in last_of(here)["state_dict"].items():
        assert torch.equal(value, weights[name]), name


def went_on(here: Path, world: World) -> None:
    content = last_of(here)
    assert content["global_step"] >= 5
    for name, value in content["state_dict"].items():
        assert not value.is_floating_point() or value.isfinite().all(), name


WITHOUT_EFFECT = ("--data.num_workers=1", "--trainer.logger=false", "--trainer.log_every_n_steps=1",
                  "--checkpoint.every_n_train_steps=2", "--trainer.num_sanity_val_steps=0", "--data.prefetch_factor=null",
                  "--checkpoint.save_top_k=-1", "--trainer.enable_progress_bar=true", "--trainer.profiler=simple",
                  "--trainer.detect_anomaly=true", "--trainer.check_val_every_n_epoch=3")  # fmt: skip
NAMED = ("--data.batch_size=4", "--data.batch_size=12", "--data.batch_size=5", "--model.lr=0.1", "--model.weight_decay=0", "--seed_everything=7",
         "--data.image_size=48", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=6",
         "--trainer.max_epochs=3", "--trainer.precision=bf16-mixed", "--model.contrastive.temperature=0.5",
         "--trainer.limit_train_batches=2", "--data.augmentation.flip_probability=0", "--data.val_fraction=0.5",
         "--model.warmup_fraction=0.5", "--model.contrastive.momentum=0.5", "--model.contrastive.queue_size=5")  # fmt: skip
REFUSED = {
    "--model.optimizer=sgd": "model.optimizer",
    "--model.backbone=resnet18 --model.backbone_kwargs=null": "model.backbone",
    "'--model.backbone_kwargs={width: 8}'": "backbone_kwargs",
    "--model.contrastive.dim=16": "contrastive.dim",
    "--model.contrastive.hidden_dim=16": "hidden_dim",
    "--model.plugins.iadm=ppssl.IADM": "plugins.iadm",
    "--model.plugins.anchor=ppssl.Anchor": "plugins.anchor",
    "--model.encoder_start=0.5": "encoder_start",
    "--data.root=$here/nowhere": "data.root",
    "--data.batch_size=1000": "batch_size",
    "--model.class_path=ppssl.FineTune": "PPSSL",
}


def together(seed: int) -> str:
    """Some of the changed settings at once."""
    return " ".join(random.Random(seed).sample(NAMED, 3))


SETTINGS = [
    *(Row(f"resumed with {o.lstrip('-')}", f"{RESUME} {o}", "right", "", None, as_the_straight_run) for o in WITHOUT_EFFECT),
    *(Row(f"resumed with {o.lstrip('-')}", f"{RESUME} {o}", "right", "is set otherwise|steps in all", None, went_on) for o in NAMED),
    *(Row(f"resumed with {together(seed)}", f"{RESUME} {together(seed)}", "right", "is set otherwise", None, went_on) for seed in range(8)),
    *(Row(f"resumed with {o}", f"{RESUME} {o}", "line", says) for o, says in REFUSED.items()),
    Row("resumed when it had ended", "$fit $long --resume=$final", "right"),
    Row("resumed for fewer epochs than are done", "$fit --trainer.max_epochs=1 --resume=$middle", "either"),
    Row("resumed from a classifier", "$fit $long --resume=$classifier", says="classifier|FineTune"),
    Row("a classifier resumed from its encoder", "$finetune $long --resume=$middle", says="PPSSL"),
    Row("resumed in an empty folder", "$fit $long --resume=auto", "right", "Nothing to resume"),
    Row("`--resume` and `--ckpt_path`", "$fit $long --resume=$middle --ckpt_path=$final", "either"),
    Row("resumed from a misspelt word", "$fit $long --resume=autp", says="autp"),
]  # fmt: skip


WRITERS = {
    "fit": "$fit",
    "fit, a log line a step": "$fit --trainer.log_every_n_steps=1",
    "fit a classifier": "$finetune",
    "embed": "embed $last --out $here/e.parquet",
    "evaluate": "evaluate $last --json $here/x.json",
    "explain": "explain $last $image --out $here/o",
    "neighbours": "neighbours $image --embeddings $embeddings --checkpoint $last --out $here/x.png",
    "predict": "predict --config ppssl:folder/pretrain $where $small --ckpt_path $last",
    "corpus inspect": "corpus inspect $corpus_txt --json $here/x.json",
    "a bank": "$fit --model.plugins.ais.corpus=class-names --model.plugins.ais.teacher=synthetic-clip --model.plugins.ais.bank_dir=$here/banks",
    "bench evaluate": "bench evaluate --train 20 --test 10 --classes 2 --dim 4 --json $here/x.json",
}
SMALL_FILES = ("evaluate", "predict", "corpus inspect", "bench evaluate")
FULL = [
    *(Row(f"`{name}`: no room for a file", command, "line", "No space|too large", None, None, 2, 0) for name, command in WRITERS.items()),
    *(Row(f"`{name}`: no room for a file above 6 kB", command, "either" if name in SMALL_FILES else "line", "No space|too large", None, None, 2, 6000) for name, command in WRITERS.items()),
]  # fmt: skip


def _quoted(argument: str) -> str:
    return (
        argument
        if "'" in argument or (" " not in argument and "{" not in argument)
        else f"'{argument}'"
    )


def unwritable(command: str, arguments: list[str], place: str) -> str:
    """A command line of an output option whose inputs do not exist."""
    given = {"names": "$corpus_txt", "study": "$study_yaml", "other": "$here/other", "place": place}
    filled = [a.format(**given) if "{width" not in a else a for a in arguments]
    return " ".join([command, *(_quoted(a) for a in filled)])


def output(arguments: list[str]) -> str:
    """The option that names the place, and those after it."""
    first = next(i for i, argument in enumerate(arguments) if "{place}" in argument)
    return " ".join(arguments[first:])


PLACES_TO_WRITE = [
    Row(f"cannot be written: {command} {output(arguments)}", unwritable(command, arguments, "/proc/none/place"), "line", "Cannot write")
    for command, arguments, _ in OUTPUTS
]  # fmt: skip
ROWS = {
    "Resumed with other settings": SETTINGS,
    "Full disks": FULL,
    "Places that cannot be written": PLACES_TO_WRITE,
}
