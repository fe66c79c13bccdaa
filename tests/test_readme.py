"""The README's Python runs as written, on small data."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text()
FIRST, PLUGIN = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_first_example(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = FIRST.replace("path/to/images", str(image_folder))
    for given, small in (
        ("batch_size=64", "batch_size=8, num_workers=0"),
        ("max_epochs=20", "max_epochs=1"),
    ):
        assert given in code
        code = code.replace(given, small)
    names: dict[str, object] = {}
    exec(code, names)
    encoder = names["encoder"]
    assert callable(encoder)
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 512)


def test_plugin_example(image_folder: Path, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from ppssl import FolderDataModule

    names: dict[str, object] = {"__name__": "readme"}
    exec(PLUGIN, names)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(default_root_dir=tmp_path, max_steps=1, **quiet)  # type: ignore[arg-type]
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    trainer.fit(names["model"], data)  # type: ignore[arg-type]
    assert {"train/loss_unit", "train/unit_length"} <= set(trainer.logged_metrics)
