"""The good files that rows damage or give in a wrong place: images, checkpoints, embeddings, corpora, recipes."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from command_line import TINY
from faults.outcome import World, arguments
from interrupted import fit_options, run_here
from ppssl.cli.main import main

CORPUS = "a bird with a red crown\na bird with a long tail\na small brown bird\n"
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))
AIS = "--model.plugins.ais.corpus=class-names --model.plugins.ais.teacher=synthetic-clip"
SMALL = " ".join(option for option in TINY if "{" not in option)


def make_images(root: Path, splits: dict[str, int] | None = None) -> Path:
    """Class folders of three classes: one colour a class, with noise."""
    rng = np.random.default_rng(0)
    for split, count in (splits or {"train": 8, "test": 4}).items():
        for label, colour in enumerate(COLOURS):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.normal(0, 40, (40, 48, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


def make_world(root: Path) -> World:
    """Train three tiny models and keep what they are used with."""
    images = make_images(root / "images")
    (root / "corpus.txt").write_text(CORPUS)
    lines = CORPUS.splitlines()
    (root / "corpus.csv").write_text(
        "id,text\n" + "".join(f"{i},{t}\n" for i, t in enumerate(lines))
    )
    (root / "corpus.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    recipe = {"data": {"class_path": "ppssl.FolderDataModule", "init_args": {"root": str(images)}}}
    (root / "data.yaml").write_text(yaml.safe_dump(recipe))
    study = {"recipe": "ppssl:synthetic/pretrain", "seeds": [0], "variants": {"plain": {}}}
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    (root / "overlay.yaml").write_text(
        "trainer: {max_epochs: 1}\nmodel:\n  init_args: {lr: 0.01}\n"
    )
    names = {
        "root": str(root),
        "images": str(images),
        "image": str(images / "test" / "class0" / "0.png"),
        "where": "--data.root $images --trainer.default_root_dir $here/run",
        "small": f"{SMALL} '--model.backbone_kwargs={{width: 4}}' --trainer.accelerator=cpu",
        "fit": "fit --config ppssl:folder/pretrain $where $small",
        "finetune": "fit --config ppssl:folder/finetune $where $small --model.backbone=resnet_small",
        "long": "--trainer.max_epochs=4",
    }
    for file in (
        "corpus.txt",
        "corpus.csv",
        "corpus.jsonl",
        "data.yaml",
        "study.yaml",
        "overlay.yaml",
    ):
        names[file.replace(".", "_")] = str(root / file)
    world = World(root, names)
    fit(world, root / "run", "$fit")
    fit(world, root / "classifier", "$finetune")
    fit(world, root / "ais", f"$fit {AIS} --model.plugins.ais.bank_dir=$root/banks")
    fit(world, root / "iadm", "$fit --model.plugins.iadm=ppssl.IADM --model.plugins.iadm.start=0")
    for name, folder in (
        ("last", "run"),
        ("classifier", "classifier"),
        ("ais", "ais"),
        ("iadm", "iadm"),
    ):
        names[name] = keep(root / folder, name)
    names["middle"] = str(root / "middle.ckpt")
    save = f"--trainer.callbacks+=save_at.SaveAt --trainer.callbacks.step=5 --trainer.callbacks.path={root}/middle.ckpt"
    fit(world, root / "long", f"$fit $long {save}")
    names["final"] = keep(root / "long", "final")
    assert run_here(images, root / "straight") == 0
    options = shlex.join(fit_options(images, root / "straight", ["--resume=auto"], {}, {}))
    names["interrupted"] = options.replace(str(root / "straight"), "$here/run")
    names["embeddings"] = str(root / "embeddings.parquet")
    assert main(["embed", names["last"], "--out", names["embeddings"]]) == 0
    return world


def keep(run: Path, name: str) -> str:
    """The last checkpoint of a run, of which nothing else is kept."""
    (found,) = run.rglob("last.ckpt")
    kept = shutil.copy(found, run.with_name(f"{name}.ckpt"))
    shutil.rmtree(run)
    return str(kept)


def fit(world: World, out: Path, command: str) -> None:
    """Train with ``$here/run`` in ``out``."""
    assert (
        main(
            [
                a.replace(f"{out.parent}/run", str(out))
                for a in arguments(command, world, out.parent)
            ]
        )
        == 0
    )
