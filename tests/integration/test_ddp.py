"""Two processes (gloo) train as one with the same global batch, where no batch norm looks at it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny import tiny_clip

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
from lightning.pytorch import Callback, Trainer
from ppssl import AIS, IADM, PPSSL, FolderDataModule
from ppssl.ais.clip import CLIPTeacher
from ppssl.contrastive import MoCo

class Losses(Callback):
    "The loss of each step, over all processes."
    def __init__(self):
        self.all = []

    def on_train_batch_end(self, trainer, module, outputs, *args):
        self.all.append(module.all_gather(outputs["loss"]).mean())

def main(root, out, devices, teacher, iadm):
    torch.manual_seed(0)
    plugins, embed = {}, CLIPTeacher.embed_images
    if teacher:
        plugins["ais"] = AIS("class-names", teacher=teacher, bank_dir=f"{out}/banks-{devices}")
    if iadm:
        plugins["iadm"] = IADM(loss_weight=1.0, start=0.0, full=0.5, debias=True, use="both", upscale=2)

    def counted(self, pixels):
        with open(f"{out}/embedded-{devices}.txt", "a") as file:
            print(len(pixels), file=file)
        return embed(self, pixels)

    CLIPTeacher.embed_images = counted
    vit = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    model = PPSSL(backbone="vit_tiny_patch16_224", image_size=32, backbone_kwargs=vit,
                  contrastive=MoCo(dim=8, queue_size=10), lr=0.1, plugins=plugins)
    data = FolderDataModule(root, image_size=32, batch_size=8 // devices, num_workers=0, seed=0,
                            val_fraction=0.25)
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2,
                      logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      num_sanity_val_steps=0, default_root_dir=out)
    trainer.callbacks.append(losses := Losses())
    trainer.fit(model, data)
    if trainer.is_global_zero:
        metrics = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        used = {k: v for k, v in trainer.callback_metrics.items() if "corpus_in_use" in k}
        steps = {str(i): loss for i, loss in enumerate(losses.all)}
        torch.save({"state": model.state_dict(), "val": metrics, "used": used, "loss": steps}, f"{out}/{devices}.pt")

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
"""


@pytest.mark.parametrize("plugin", ["plain", "ais", "iadm", "full"])
def test_two_processes_are_one(image_folder: Path, tmp_path: Path, plugin: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    teacher = str(tiny_clip(tmp_path / "clip")) if plugin in ("ais", "full") else ""
    iadm = "iadm" if plugin in ("iadm", "full") else ""
    runs = []
    for devices in (1, 2):
        arguments = [str(image_folder), str(tmp_path), str(devices), teacher, iadm]
        command = [sys.executable, str(script), *arguments]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(torch.load(tmp_path / f"{devices}.pt", weights_only=True))
    one, two = runs
    assert len(one["loss"]) == 6
    for part in ("state", "val", "used", "loss"):
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert "val/retrieval_map" in one["val"]
    if teacher:
        assert one["used"]
        for devices in (1, 2):  # made once, and by one process
            counts = (tmp_path / f"embedded-{devices}.txt").read_text().split()
            assert sum(map(int, counts)) == 24


CLASSIFIER = """
import sys
import torch
from lightning.pytorch import Trainer
from ppssl import FineTune, FolderDataModule

def main(root, out, devices):
    torch.manual_seed(0)
    vit = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    model = FineTune(backbone="vit_tiny_patch16_224", image_size=32, backbone_kwargs=vit, freeze_epochs=1,
                     ema_decay=0.9, class_weights="balanced", optimizer="sgd", lr=0.1)
    # SGD: Adam makes whole steps of the rounding errors that are the gradient of the keys' bias in attention
    data = FolderDataModule(root, image_size=32, batch_size=8 // devices, num_workers=0, seed=0, val_fraction=0.2)
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=3,
                      logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      num_sanity_val_steps=0, default_root_dir=out)
    trainer.fit(model, data)
    if trainer.is_global_zero:
        metrics = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        torch.save({"state": model.state_dict(), "val": metrics}, f"{out}/{devices}.pt")

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_a_classifier_is_wrapped_whole(image_folder: Path, tmp_path: Path) -> None:
    """Head, encoder, the epoch in which only the head is trained, and the average: as on one process."""
    (image_folder / "train" / "class0" / "0.png").unlink()  # an odd number of images to validate
    script = tmp_path / "train.py"
    script.write_text(CLASSIFIER)
    runs = []
    for devices in (1, 2):
        command = [sys.executable, str(script), str(image_folder), str(tmp_path), str(devices)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(torch.load(tmp_path / f"{devices}.pt", weights_only=True))
    one, two = runs
    for part in ("state", "val"):
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert {"val/top1", "val/macro"} <= set(one["val"])
