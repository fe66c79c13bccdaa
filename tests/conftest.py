"""What all tests share: no network, one thread, small images."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log handler keeps the stderr it is imported with: not one test's, then
import numpy as np
import pytest
import torch
from PIL import Image

from tiny import tiny_clip

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_global_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`seed_everything` leaves its seed in the environment: no test sees another's."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Banks of the tests are kept among their files."""
    monkeypatch.setenv("PPSSL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with `train` (3 classes of 8) and `test` (3 of 4): one colour a class, with noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, colour in enumerate(((200, 60, 60), (60, 200, 60), (60, 60, 200))):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 40, (40, 48, 3)), 0, 255).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP; not to be changed: copy it."""
    return tiny_clip(tmp_path_factory.mktemp("teacher") / "clip")


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where banks are kept."""
    monkeypatch.setenv("PPSSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "banks"
