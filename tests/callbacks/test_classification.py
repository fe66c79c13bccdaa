from pathlib import Path
from typing import Any

import pytest
import torch

from ppssl import FolderDataModule
from ppssl.callbacks.classification import ClassificationMonitor, confused_examples
from ppssl.utils.plots.confusion import confusion_panel


@pytest.mark.parametrize(
    ("epoch", "last", "drawn"), [(0, False, False), (0, True, True), (9, False, True)]
)
def test_when_a_figure_is_drawn(epoch: int, last: bool, drawn: bool) -> None:
    assert ClassificationMonitor().should_draw(epoch, last) is drawn
    assert not ClassificationMonitor(pairs=0).should_draw(epoch, last)


@pytest.mark.parametrize("kwargs", [{"pairs": -1}, {"every_n_epochs": 0}])
def test_arguments_are_checked(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        ClassificationMonitor(**kwargs)


def test_confused_classes_are_shown_by_images_that_were(image_folder: Path) -> None:
    data = FolderDataModule(str(image_folder), image_size=32, num_workers=0)
    data.setup()
    rows = {  # of the test images, 24 to 35, four a class
        "index": torch.arange(24, 36),
        "label": torch.arange(3).repeat_interleave(4),
        "predicted": torch.tensor([0, 0, 2, 0, 1, 1, 1, 1, 2, 2, 2, 2]),
    }
    (pair,) = confused_examples(data, rows, data.classes, 6)
    assert (pair.names, pair.totals, pair.mistaken) == (("class0", "class2"), (4, 4), (True, False))
    assert pair.counts.tolist() == [[3, 1], [0, 4]]
    assert torch.equal(pair.images[0], data.eval_dataset("test")[2]["image"])
    assert torch.equal(pair.images[1], data.eval_dataset("test")[8]["image"])
    figure = confusion_panel([pair], "title")
    assert [text.get_text() for text in figure.axes[1].texts] == [
        "3 of 4",
        "1 of 4",
        "0 of 4",
        "4 of 4",
    ]
    assert confusion_panel([]).axes[1].texts[0].get_text() == "no confused classes"
