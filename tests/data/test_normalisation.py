"""An evaluation of another encoder leaves a data module as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ppssl import PPSSL, FineTune, FolderDataModule, embed, evaluate
from ppssl.data.normalisation import normalised
from ppssl.evaluation.classifier import evaluate_classifier

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


def _classifier() -> FineTune:
    model = FineTune(**TINY)
    model.build(["class0", "class1", "class2"])
    return model


USES: dict[str, Callable[[FolderDataModule, Path], Any]] = {
    "evaluate": lambda data, _: evaluate(PPSSL(**TINY), data),
    "embed": lambda data, out: embed(PPSSL(**TINY), data, out / "e.parquet"),
    "accuracy": lambda data, _: evaluate_classifier(_classifier(), data),
}


@pytest.mark.parametrize("use", USES)
def test_the_normalisation_is_as_before(use: str, image_folder: Path, tmp_path: Path) -> None:
    data = FolderDataModule(image_folder, image_size=32, batch_size=8, num_workers=0)
    data.normalise_with((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    image = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    before = data.normalise(image)
    USES[use](data, tmp_path)
    assert torch.equal(data.normalise(image), before)


def test_also_after_an_error(image_folder: Path) -> None:
    data = FolderDataModule(image_folder)
    image = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    before = data.normalise(image)

    def fail() -> None:
        with normalised(data, (0.0,) * 3, (1.0,) * 3):
            torch.testing.assert_close(data.normalise(image), torch.full((1, 3, 2, 2), 0.2))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(data.normalise(image), before)
