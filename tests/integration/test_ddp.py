"""Two processes (gloo) train as one with the same global batch, where no batch norm looks at it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from ppssl import PPSSL, FolderDataModule
from ppssl.contrastive import MoCo

def main(root, out, devices):
    torch.manual_seed(0)
    vit = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    model = PPSSL(backbone="vit_tiny_patch16_224", image_size=32, backbone_kwargs=vit,
                  contrastive=MoCo(dim=8, queue_size=10), lr=0.1)
    data = FolderDataModule(root, image_size=32, batch_size=8 // devices, num_workers=0, seed=0,
                            val_fraction=0.25)
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2,
                      logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      num_sanity_val_steps=0, default_root_dir=out)
    trainer.fit(model, data)
    if trainer.is_global_zero:
        metrics = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        torch.save({"state": model.state_dict(), "val": metrics}, f"{out}/{devices}.pt")

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_two_processes_are_one(image_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    runs = []
    for devices in (1, 2):
        command = [sys.executable, str(script), str(image_folder), str(tmp_path), str(devices)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(torch.load(tmp_path / f"{devices}.pt", weights_only=True))
    one, two = runs
    assert one["state"].keys() == two["state"].keys()
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert one["val"].keys() == two["val"].keys() > {"val/retrieval_map"}
    for name, value in one["val"].items():
        torch.testing.assert_close(two["val"][name], value, atol=1e-5, rtol=1e-5, msg=name)
