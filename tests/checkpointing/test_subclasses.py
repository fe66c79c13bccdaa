"""Subclasses with arguments of their own: they train, and their checkpoints load or say what to give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ppssl import (
    PPSSL,
    AtomicCheckpointIO,
    FineTune,
    FolderDataModule,
    LossPlugin,
    LossTerm,
    MoCo,
    UserError,
)

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


class Wide(PPSSL):
    """Keeps no argument, and fixes some of PPSSL's."""

    def __init__(self, width: int, *, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__("resnet_small", backbone_kwargs={"width": width}, **kwargs)
        self.factor = scale


class Closed(PPSSL):
    """Takes no argument of PPSSL."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            "resnet_small", backbone_kwargs={"width": width}, contrastive=MoCo(dim=8), lr=0.1
        )


class WithFunction(PPSSL):
    def __init__(self, transform: Callable[[Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transform = transform


class WithHyperparameters(PPSSL):
    """Saves its hyperparameters as Lightning's users do, objects included."""

    def __init__(self, alpha: float, contrastive: Any = None, **kwargs: Any) -> None:
        super().__init__(contrastive=contrastive, **kwargs)
        self.save_hyperparameters()
        self.alpha = alpha


class Own(FineTune):
    def __init__(self, dropout: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Plugin(LossPlugin):
    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, step: Any) -> LossTerm:
        return LossTerm(self.score(step.embedding).mean(dim=1))


def _train(model: Any, images: Path, folder: Path) -> Path:
    """The checkpoint of one epoch."""
    data = FolderDataModule(images, image_size=32, batch_size=8, num_workers=0)
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(model, data)
    (path,) = folder.rglob("*.ckpt")
    return path


def _assert_same(first: Any, second: Any) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (Wide, {"width": 4, "scale": 0.25, "lr": 0.05, "batch_norm": "frozen"}),
        (Closed, {"width": 8}),
        (Own, {"dropout": 0.1, **TINY}),
        (WithHyperparameters, {"alpha": 0.3, "contrastive": MoCo(dim=8), **TINY}),
    ],
)
def test_what_the_signature_tells_comes_back(
    cls: Any, arguments: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    model = cls(**arguments)
    path = _train(model, image_folder, tmp_path)
    torch.load(path, weights_only=True)
    loaded = cls.load_from_checkpoint(path)
    _assert_same(model, loaded)
    assert type(loaded) is cls
    assert loaded.config() == model.config() | {
        "init_args": model.config()["init_args"] | {"pretrained": False}
        if "pretrained" in model.config()["init_args"]
        else model.config()["init_args"]
    }
    if cls is Wide:
        assert (loaded.factor, loaded.lr, loaded.batch_norm) == (0.25, 0.05, "frozen")
        assert cls.load_from_checkpoint(path, scale=0.5).factor == 0.5


def test_a_function_trains_and_loading_names_the_way(image_folder: Path, tmp_path: Path) -> None:
    model = WithFunction(torch.relu, **TINY)
    with pytest.warns(UserWarning, match=r"`transform` is a `builtin.*WithFunction.load_from_ch"):
        path = _train(model, image_folder, tmp_path)
    with pytest.raises(
        UserError, match=r"give it, `WithFunction\.load_from_checkpoint\(path, transform=\.\.\.\)`"
    ):
        WithFunction.load_from_checkpoint(path)
    _assert_same(model, WithFunction.load_from_checkpoint(path, transform=torch.relu))


def test_so_does_a_function_in_a_plugin(image_folder: Path, tmp_path: Path) -> None:
    model = PPSSL(**TINY, plugins={"p": Plugin(torch.abs)})
    with pytest.warns(UserWarning, match=r"`plugins\.p\.score` is a `builtin"):
        path = _train(model, image_folder, tmp_path)
    with pytest.raises(UserError, match=r"`plugins\.p\.score` .* give it, .*\(path, plugins=\.\."):
        PPSSL.load_from_checkpoint(path)
    _assert_same(model, PPSSL.load_from_checkpoint(path, plugins={"p": Plugin(torch.abs)}))


def test_a_class_that_is_not_defined_here_is_named(image_folder: Path, tmp_path: Path) -> None:
    path = _train(Wide(4), image_folder, tmp_path)
    content = torch.load(path, weights_only=True)
    content["ppssl"]["model"]["class_path"] = "elsewhere.Wide"
    torch.save(content, path)
    with pytest.raises(
        UserError, match=r"`elsewhere\.Wide`, .* `Wide\.load_from_checkpoint\(path\)`"
    ):
        PPSSL.load_from_checkpoint(path)
    assert type(Wide.load_from_checkpoint(path)) is Wide  # the same class, now elsewhere
    del content["ppssl"]["model"]["init_args"]["width"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"missing a required argument: 'width'.*Give what is"):
        Wide.load_from_checkpoint(path)
    assert Wide.load_from_checkpoint(path, width=4).encoder.info.dim == 32
