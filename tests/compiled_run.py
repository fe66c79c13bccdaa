"""Train with a compiled encoder by DDP on the CPU, and save what came out; a program for test_compile.py.

Arguments: image folder, output file, number of processes, compiled (0 or 1).
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from ppssl import IADM, PPSSL, FolderDataModule, MoCo
from ppssl.utils import compiler


def main(images: str, out: str, processes: str, compiled: str) -> None:
    """Three steps with plugins."""
    compiler.BACKEND = "aot_eager"
    torch.manual_seed(0)
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8),
        lr=0.05,
        plugins={"iadm": IADM(start=0, full=0, every=2, use="both")},
        compile_encoder=compiled == "1",
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=int(processes),
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=Path(out).parent,
    )
    data = FolderDataModule(images, image_size=32, batch_size=4, num_workers=0)
    trainer.fit(model, data)
    if trainer.is_global_zero:
        torch.save(model.state_dict(), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
