import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ppssl.cli.main import main


def test_demo_leaves_checkpoint_json_and_events(tmp_path: Path, caplog: Any) -> None:
    tiny = [
        "--data.train_size=80",
        "--data.test_size=40",
        "--data.num_workers=0",
        "--trainer.max_epochs=1",
    ]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    assert main(["demo", "--out", str(tmp_path), "--seed", "3", *tiny, *quiet]) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert Path(content["checkpoint"]).name == "last.ckpt"
    assert Path(content["checkpoint"]).is_file()
    assert content["after"]["seed"] == content["before"]["seed"] == 3
    assert content["before"]["metrics"].keys() == content["after"]["metrics"].keys()
    assert content["before"]["metrics"] != content["after"]["metrics"]
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert "plugins.ais.student.log_temperature" in torch.load(content["checkpoint"])["state_dict"]
    panel = Image.open(tmp_path / "saliency.png")
    assert min(panel.size) > 1000  # six rows of five pictures
    assert "plugins.iadm.branch.conv.weight" in torch.load(content["checkpoint"])["state_dict"]
    again = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    assert main(["demo", "--out", str(tmp_path), "--seed", "3", *tiny, *quiet, *again]) == 0
    assert "Found the bank" in caplog.text
