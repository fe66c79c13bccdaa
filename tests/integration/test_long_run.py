"""2,000 steps with every callback on: neither memory nor open files grow."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ppssl import AIS, IADM, PPSSL, SyntheticDataModule
from ppssl.checkpointing.atomic import AtomicCheckpointIO
from ppssl.checkpointing.run_checkpoint import RunCheckpoint
from ppssl.losses.contrastive import MoCo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS, EVERY = 2000, 20


class Growth(Callback):
    """Resident memory in MiB and open files, at every so manieth step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, int]] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step % EVERY == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            self.seen.append((trainer.global_step, memory, len(os.listdir("/proc/self/fd"))))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_nothing_grows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plugins = {
        "ais": AIS("synthetic-birds", teacher="synthetic-clip", bank_dir=str(tmp_path / "banks")),
        "iadm": IADM(start=0.0, full=0.1, debias=True, every=1),
    }
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8),
        plugins=plugins,
        lr=1e-3,
        optimizer="adamw",
    )
    data = SyntheticDataModule(
        train_size=200, test_size=40, image_size=32, batch_size=4, num_workers=1, seed=0
    )
    growth = Growth()
    Trainer(
        default_root_dir=tmp_path,
        max_steps=STEPS,
        callbacks=[growth, RunCheckpoint(every_n_train_steps=20)],
        logger=TensorBoardLogger(tmp_path),
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    ).fit(model, data)
    steps, memory, files = np.array(growth.seen[len(growth.seen) // 2 :]).T
    assert steps[-1] == STEPS
    assert np.ptp(files) <= 2, files
    slope = np.polyfit(steps, memory, 1)[0] * 1000
    assert slope < 5, f"{slope:.1f} MiB in 1,000 steps"
