from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from ppssl import (
    FolderDataModule,
    UserError,
    duplicates,
    embed,
    evaluate,
    explain,
    neighbours,
)
from ppssl.inference.embedding_file import read_embeddings
from ppssl.inference.embeddings import embed_loader
from ppssl.inference.explain import View
from ppssl.utils.module_encoder import ModuleEncoder


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_model_runs_in_its_own_precision(
    name: str, dtype: torch.dtype, image_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {} if name == "test_resnet" else {"img_size": 32}
    model = timm.create_model(name, num_classes=0, **options)
    data = _data(image_folder)
    (expected, _), *_ = read_embeddings(embed(model, data, tmp_path / "float32.parquet"))
    out = embed(model.to(dtype), data, tmp_path / "e.parquet")
    query = image_folder / "test" / "class1" / "2.png"
    nearest = neighbours(query, out, model, k=36)
    assert nearest[0].path == str(query)
    (found, _), *_ = read_embeddings(out)
    assert torch.cosine_similarity(found.features, expected.features).min() > 0.999
    with pytest.raises(
        UserError, match=r"`explain` computes in float32.* call the model.s `float\(\)`"
    ):
        explain(model, query, view=View(32))


class Pixels(nn.Module):
    """No weights: the mean of each channel."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012
    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def test_a_model_may_have_no_weights(image_folder: Path, tmp_path: Path) -> None:
    data, query = _data(image_folder), image_folder / "test" / "class1" / "2.png"
    out = embed(Pixels(), data, tmp_path / "e.parquet")
    assert neighbours(query, out, Pixels())[0].path == str(query)
    assert evaluate(Pixels(), data).metrics["knn-1"] > 0.9
    assert explain(Pixels(), query, view=View(32)).maps["image GradCAM"].shape == (1, 32, 32)


class Wrapped(nn.Module):
    """A model of one's own around another: the whole is the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("test_resnet", num_classes=0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (timm.create_model("test_resnet"), r"1,000 logits .* call its `reset_classifier\(0\)`"),
        (torchvision.models.resnet18(), r"A `ResNet` has no `pretrained_cfg`.* `ppssl\.PPSSL\("),
        (Wrapped(), "A `Wrapped` has no `pretrained_cfg`"),
    ],
)
def test_what_gives_no_embeddings_is_refused(
    model: nn.Module, message: str, image_folder: Path, tmp_path: Path
) -> None:
    data, out = _data(image_folder), tmp_path / "e.parquet"
    for call in (
        lambda: embed(model, data, out),
        lambda: evaluate(model, data),
        lambda: duplicates(model, data),
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert not out.exists()


def test_a_file_needs_the_length_of_an_embedding(image_folder: Path, tmp_path: Path) -> None:
    encoder = ModuleEncoder(nn.Conv2d(3, 8, 8, stride=8))
    with pytest.raises(UserError, match="set `num_features` of the `ModuleEncoder`"):
        embed(encoder, _data(image_folder), tmp_path / "e.parquet")


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
