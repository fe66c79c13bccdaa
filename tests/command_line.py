"""A run of seconds by the command line, and the one line that an error is."""

from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parents[1] / "experiments" / "folder" / "pretrain.yaml"
TINY = [
    "--model.backbone_kwargs={width: 4}",
    "--data.image_size=32",
    "--data.batch_size=8",
    "--data.num_workers=0",
    "--data.val_fraction=0.25",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def fit_arguments(images: Path, out: Path, *more: str) -> list[str]:
    """``ppssl fit`` of the folder recipe, made tiny, and more options after that."""
    root = ["--data.root", str(images), "--trainer.default_root_dir", str(out)]
    return ["fit", "--config", str(RECIPE), *root, *TINY, *more]


def error_line(capsys: Any) -> str:
    """What went to stderr, without what the libraries say: exactly one line, no traceback."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("ppssl: ")]
    return line
