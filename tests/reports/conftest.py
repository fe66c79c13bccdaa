"""One tiny run and its page, for all tests of the report."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.pages import make, train

NAMES = ("bold <b> & co", "class1", "class2")
"""The first class has a name that a page must not take for markup."""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of ``train`` (3 of 8) and ``test`` (3 of 4): stripes of a class's colour, with noise.

    The first training images of the second and the third class have changed places.
    """
    root, rng = tmp_path_factory.mktemp("report-images"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(90, 30, (40, 48, 3))
                colour = 3 - label if split == "train" and label and i == 0 else label
                pixels[..., colour] += 90
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the images."""
    return train(images, tmp_path_factory.mktemp("report-run") / "small")


@pytest.fixture(scope="session")
def other(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with other settings on the same images."""
    folder = tmp_path_factory.mktemp("report-other") / "other"
    return train(images, folder, "--model.lr=0.05", "--trainer.max_epochs=2")


@pytest.fixture(scope="session")
def page_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the run."""
    file = tmp_path_factory.mktemp("report-page") / "report.html"
    make(run, file)
    return file


@pytest.fixture
def page(page_file: Path) -> str:
    """The text of the page of the run."""
    return page_file.read_text()
