"""All options of all commands that name a file or folder to write, in command lines whose inputs do not exist.

``{place}`` is the place; ``{names}``, ``{study}`` and ``{other}`` are class names, a study and another folder.
"""

from command_line import RECIPE, TINY
from ppssl.cli.main import TRAINER_COMMANDS

FIT = ["--config", str(RECIPE), "--data.root", "nowhere", *TINY]
LOGGER = "--trainer.logger={{class_path: {name}, init_args: {{save_dir: {place}}}}}"
TRAINER = [
    (command, [*FIT, option], "folder")
    for command in TRAINER_COMMANDS
    for option in (
        "--trainer.default_root_dir={place}",
        "--checkpoint.dirpath={place}",
        LOGGER.replace("{name}", "lightning.pytorch.loggers.CSVLogger"),
        LOGGER.replace("{name}", "lightning.pytorch.loggers.TensorBoardLogger"),
    )
]
PICKS = ["birds", "--teacher", "synthetic-clip", "--images", "nowhere.jpg"]
WHERE = ["--embeddings", "nowhere.parquet", "--checkpoint", "nowhere.ckpt"]
GENERATE = ["--model", "nowhere", "--classes", "{names}"]
OUTPUTS = [
    *TRAINER,
    ("ablate", ["{study}", "--out={place}"], "folder"),
    ("ablate", ["{study}", "--out={other}", "--work={place}"], "folder"),
    ("bench evaluate", ["--json={place}"], "file"),
    ("bench loader", ["--json={place}"], "file"),
    ("bench loader", ["--picture={place}.png"], "file"),
    ("bench saliency", ["--checkpoints", "nowhere.ckpt", "--out={place}"], "folder"),
    ("bench step", ["--json={place}"], "file"),
    ("corpus generate", [*GENERATE, "--out={place}.jsonl"], "file"),
    ("corpus inspect", ["nowhere.txt", "--json={place}"], "file"),
    ("corpus inspect", [*PICKS, "--out={place}.png"], "file"),
    ("demo", ["--out={place}"], "folder"),
    ("doctor", ["--json={place}"], "file"),
    ("duplicates", ["nowhere.ckpt", "--out={place}"], "file"),
    ("duplicates", ["nowhere.ckpt", "--json={place}"], "file"),
    ("embed", ["nowhere.ckpt", "--out={place}"], "file"),
    ("evaluate", ["nowhere.ckpt", "--json={place}"], "file"),
    ("evaluate", ["nowhere.ckpt", "--json={place}", "--label-fraction", "0.5"], "file"),
    ("explain", ["nowhere.ckpt", "nowhere.jpg", "--out={place}"], "folder"),
    ("export", ["nowhere.ckpt", "--to", "timm", "--out={place}"], "folder"),
    ("neighbours", ["nowhere.jpg", *WHERE, "--out={place}.png"], "file"),
    ("report", ["nowhere.ckpt", "--out={place}"], "file"),
]
IDS = [f"{command} {' '.join(arguments)[-40:]}" for command, arguments, _ in OUTPUTS]
