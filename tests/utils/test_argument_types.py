"""Arguments of a wrong type are refused in one line when an object is made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from torch import nn

from configurable import configurable_classes
from ppssl import (
    AIS,
    IADM,
    PPSSL,
    Anchor,
    FolderDataModule,
    MoCo,
    MoCoV2Augmentation,
    SimCLR,
    SyntheticDataModule,
)
from ppssl.utils.errors import ArgumentError

CASES: list[tuple[type[Any], str, Any, str]] = [
    (
        PPSSL,
        "contrastive",
        SimCLR,
        "a `ContrastiveObjective` or None, got the class `SimCLR`: give",
    ),
    (PPSSL, "contrastive", "simclr", "a `ContrastiveObjective` or None, got 'simclr'."),
    (PPSSL, "plugins", [IADM()], "a dict by name, each a `LossPlugin` or None, got [IADM()]."),
    (PPSSL, "lr", "1e-3", "a number or None, got '1e-3'."),
    (PPSSL, "base_lr", "1e-3", "a number or 'auto', got '1e-3'."),
    (PPSSL, "monitors", "no", "True or False, got 'no'."),
    (PPSSL, "compile_encoder", 1, "True or False, got 1."),
    (FolderDataModule, "image_size", (64, 64), "a whole number, got (64, 64)."),
    (FolderDataModule, "squash", "no", "True or False, got 'no'."),
    (
        FolderDataModule,
        "augmentation",
        MoCoV2Augmentation,
        "got the class `MoCoV2Augmentation`: give",
    ),
    (
        FolderDataModule,
        "augmentation",
        "simclr",
        "a `MoCoV2Augmentation` or a function or None, got",
    ),
    (MoCo, "momentum", np.ones(2), "a number or 'auto', got a `ndarray`."),
    (AIS, "corpus_column", nn.Identity(), "a text or None, got a `Identity`."),
    (AIS, "teacher_temperature", (1,), "a number or 'auto' or 'teacher', got (1,)."),
    (Anchor, "window", "auto", "a number or None, got 'auto'."),
    (MoCoV2Augmentation, "jitter", (0.4, 0.4), "4 values, each a number, got (0.4, 0.4)."),
    (SyntheticDataModule, "train_size", 2.5, "a whole number, got 2.5."),
]


@pytest.mark.parametrize(("cls", "name", "value", "message"), CASES)
def test_one_line_says_what_is_wrong(cls: type[Any], name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        cls(**{name: value})
    assert f"`{name}` must be " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_item_of_a_dict_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"`plugins\.a` must be a `LossPlugin`, got the class"):
        PPSSL(plugins={"b": IADM(), "a": IADM})  # type: ignore[dict-item]


def _checked() -> Iterator[tuple[type[Any], str, Any]]:
    """Arguments of all classes, each with values that do not fit."""
    for cls in configurable_classes():
        for name, hint in get_type_hints(cls.__init__).items():  # type: ignore[misc]
            options = {hint, *get_args(hint)}
            if name in ("return", "kwargs") or Any in options or get_origin(hint) is Literal:
                continue
            yield from ((cls, name, value) for value in (object(), object))
            if str not in options:
                yield cls, name, "no"


@pytest.mark.parametrize(("cls", "name", "value"), _checked())
def test_every_argument_of_every_class_is_checked(cls: type[Any], name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}` must be "):
        cls(**{name: value})


def test_what_stands_for_a_type_is_taken(tmp_path: Path) -> None:
    data = FolderDataModule(tmp_path, image_size=np.int64(32), val_fraction=np.float32(0.5))  # type: ignore[arg-type]
    assert data.image_size == 32
    augmentation: Any = MoCoV2Augmentation([0.5, 1], blur_probability=(1, 0))  # type: ignore[arg-type]
    assert augmentation.crop_scale == [0.5, 1]
    assert MoCo(momentum=1, queue_size="auto").momentum == 1
    plugins: Any = nn.ModuleDict({"iadm": IADM()})
    assert list(PPSSL("resnet_small", plugins=plugins).plugins) == ["iadm"]
    assert FolderDataModule("x", augmentation=lambda image: image).augmentation is not None


class _Own(AIS):
    def __init__(self, corpus: int, width: int = 3, **kwargs: Any) -> None:
        super().__init__(str(corpus), **kwargs)
        self.width = width


def test_of_a_class_of_ones_own_what_is_passed_on_is_checked() -> None:
    own: Any = _Own
    assert own(4, width="wide").corpus == "4"
    with pytest.raises(ArgumentError, match="`top_k` must be a whole number or None, got 'all'"):
        own(4, top_k="all")
