"""The README's Python runs as written, on small data."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import layouts

README = (Path(__file__).parents[1] / "README.md").read_text()
FIRST, PLUGIN, NABIRDS, DOGS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


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


@pytest.mark.parametrize(
    ("code", "name", "make", "classes"),
    [(NABIRDS, "nabirds", layouts.nabirds, 3), (DOGS, "dogs", layouts.dogs, 2)],
)
def test_sets_become_class_folders(
    code: str, name: str, make: Callable[[Path], Path], classes: int, tmp_path: Path
) -> None:
    from lightning.pytorch import Trainer

    from ppssl import IADM, PPSSL, FolderDataModule, evaluate
    from ppssl.losses.contrastive import MoCo
    from ppssl.losses.iadm.callback import IADMCallback

    root, out = make(tmp_path / "original"), tmp_path / "split"
    code = code.replace(f"path/to/{name}-split", str(out)).replace(f"path/to/{name}", str(root))
    exec(code, {})
    data = FolderDataModule(str(out), image_size=32, batch_size=4, num_workers=0)
    data.setup()
    for split, count in (("train", layouts.TRAIN), ("test", layouts.TEST)):
        source = data.sources[split]
        assert [layouts.class_of(source.load(i)) for i in range(len(source))] == sorted(
            list(range(classes)) * count
        )
        assert source.labels.tolist() == sorted(list(range(classes)) * count)
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8),
        plugins={"iadm": IADM(start=0.0, full=0.0)},
    )
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"logger": False, "callbacks": [IADMCallback(every_n_epochs=0, num_probes=4)]}
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, limit_train_batches=1, **quiet)
    trainer.fit(model, data)
    assert 0 < trainer.callback_metrics["train/iadm_health_entropy"] <= 1
    assert 0 <= evaluate(model, data).metrics["linear"] <= 1
