"""Images, and the run that nothing interrupts."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from interrupted import run_here


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of three classes: three steps an epoch."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for label in range(3):
        (root / "train" / f"class{label}").mkdir(parents=True)
        for i in range(8):
            pixels = torch.randint(0, 200, (40, 48, 3), generator=generator, dtype=torch.uint8)
            pixels[..., label] += 55
            Image.fromarray(pixels.numpy()).save(root / "train" / f"class{label}" / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing interrupts."""
    out = tmp_path_factory.mktemp("straight")
    assert run_here(images, out) == 0
    return out
