from pathlib import Path

import pytest
import torch
from torch import nn

from ppssl import FolderDataModule
from ppssl.inference.embeddings import embed_loader


class Colour(nn.Module):
    """The mean of each channel; says whether it was in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.modes: set[bool] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.modes.add(self.training)
        return images.mean(dim=(2, 3)) * self.scale


def _data(images: Path) -> FolderDataModule:
    data = FolderDataModule(
        str(images), image_size=32, batch_size=5, num_workers=0, on_error="skip"
    )
    data.setup()
    return data


def test_a_row_an_image(image_folder: Path) -> None:
    data, model = _data(image_folder), Colour()
    found = embed_loader(model, data.eval_loader("test"), data)
    assert found.index.tolist() == list(range(24, 36))
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.features.argmax(dim=1).equal(found.labels)  # a class is a colour
    assert (model.modes, model.training) == ({False}, True)


def test_each_image_once_where_others_are_broken(image_folder: Path) -> None:
    """The next image takes a broken one's place, and after the last the first."""
    whole = _data(image_folder)
    expected = embed_loader(Colour(), whole.eval_loader("train"), whole)
    for name in ("class0/3.png", "class2/7.png"):
        path = image_folder / "train" / name
        path.write_bytes(path.read_bytes()[:200])
    data = _data(image_folder)
    with pytest.warns(UserWarning, match="Skipped"):
        found = embed_loader(Colour(), data.eval_loader("train"), data)
    kept = [i for i in range(24) if i not in (3, 23)]
    assert found.index.tolist() == kept
    assert found.labels.equal(expected.labels[kept])
    torch.testing.assert_close(found.features, expected.features[kept])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("free", "kept_on"), [(None, "cuda"), (0, "cpu")])
def test_features_stay_on_a_gpu_with_room(
    free: int | None, kept_on: str, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _data(image_folder)
    expected = embed_loader(Colour(), data.eval_loader("test"), data)
    if free is not None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 2**36))
    found = embed_loader(Colour().cuda(), data.eval_loader("test"), data)
    assert found.features.device.type == kept_on
    assert (found.labels.device.type, found.index.device.type) == ("cpu", "cpu")
    torch.testing.assert_close(found.features.cpu(), expected.features)
    assert found.labels.equal(expected.labels)
