"""Asking for the image's gradient keeps no graph alive."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from ppssl import IADM, PPSSL
from ppssl.losses.contrastive import MoCo


def _resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_no_growth_from_step_50_to_300() -> None:
    torch.manual_seed(0)
    plugin = IADM(start=0.0, full=0.0, use="both", debias=True, every=1)
    contrastive = MoCo(dim=8, queue_size=32, prefill="random")
    model = PPSSL(
        "resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=contrastive,
        plugins={"iadm": plugin},
    )
    model.build(num_images=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    used = []
    for step in range(300):
        views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
        loss, _ = model.losses({"views": views, "index": torch.arange(8)}, seed=step, progress=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 50 and step % 10 == 0:
            gc.collect()
            used.append(_resident_kib())
    slope = np.polyfit(10 * np.arange(len(used)), used, 1)[0]
    assert slope < 50, f"{slope:.1f} KiB a step"
