import inspect
import math
from typing import get_args, get_origin, get_type_hints

import pytest

import ppssl
from ppssl import AIS, IADM, PPSSL, FineTune, FolderDataModule, LinearProbe, MoCo
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.utils.checks import check_choice, check_pixels, check_range
from ppssl.utils.errors import ArgumentError

INSIDE_AND_OUTSIDE = {
    "> 0": ([1e-9, 7, math.inf], [0, -1, math.nan]),
    ">= 0": ([0, 7], [-1e-9, math.nan]),
    ">= 1": ([1, 7], [0, 0.99, -1, math.nan]),
    ">= 2": ([2, 7], [1, math.nan]),
    "in [0, 1]": ([0, 0.5, 1], [-1e-9, 1.001, math.nan]),
    "in [0, 1)": ([0, 0.5], [-1e-9, 1, math.nan]),
    "in (0, 1]": ([1e-9, 0.5, 1], [0, 1.001, math.nan]),
    "in (0, 1)": ([1e-9, 0.5], [0, 1, math.nan]),
}


@pytest.mark.parametrize("name", INSIDE_AND_OUTSIDE)
def test_ranges(name: str) -> None:
    inside, outside = INSIDE_AND_OUTSIDE[name]
    check_range(name, **{f"x{i}": x for i, x in enumerate(inside)}, absent=None)
    for x in outside:
        with pytest.raises(ValueError, match=r"^`bad` must be ") as error:
            check_range(name, good=inside[0], bad=x)
        assert str(error.value) == f"`bad` must be {name}, got {x}."


def test_choices() -> None:
    check_choice(("a", "b"), one="a", other="b")
    with pytest.raises(ValueError, match=r"^`other` must be one of a, b, got 'c'\.$"):
        check_choice(("a", "b"), one="a", other="c")


def test_pixels() -> None:
    check_pixels(image_size=1, render_size=None)
    check_pixels(image_size=16_384)
    for size in (0, -3, 16_385):
        with pytest.raises(ArgumentError, match=r"`image_size` must be .* got"):
            check_pixels(image_size=size)


LOADABLE = {
    "teacher": "synthetic-clip",
    "corpus": "birds",
    "root": ".",
    "name": "Flowers102",
    "backbone": "resnet_small",
}
NEGATIVE = {"seed", "init_seed", "data_seed", "every_n_epochs", "class_weights"}
"""Arguments of numbers that may be negative, or are checked where the classes are known."""
CLASSES = [
    *(PPSSL, FineTune, LinearProbe, MoCo, ppssl.MoCoV3, ppssl.SimCLR, ppssl.BYOL),
    *(AIS, IADM, ppssl.Anchor, ppssl.Distillation),
    *(ppssl.MoCoV2Augmentation, ppssl.LabelledAugmentation, FolderDataModule),
    *(ppssl.SyntheticDataModule, RepresentationMonitor),
]


def _numbers(cls: type) -> list[str]:
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    kinds = {name: {hint, *get_args(hint)} for name, hint in hints.items()}
    return [
        name
        for name, types in kinds.items()
        if types & {int, float} and bool not in types and get_origin(hints[name]) is not tuple
    ]


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (cls, name, value)
        for cls in CLASSES
        for name in sorted(set(_numbers(cls)) - NEGATIVE)
        for value in (-1, math.nan)
    ],
)
def test_every_number_has_a_range(cls: type, name: str, value: float) -> None:
    """A negative or undefined one would be found in the middle of a run, or never."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    if value != value and float not in {hints[name], *get_args(hints[name])}:
        pytest.skip("an integer is never undefined")
    required = [p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
    given = {key: LOADABLE[key] for key in required if key in LOADABLE}
    given |= {"backbone": "resnet_small"} if cls in (PPSSL, FineTune, LinearProbe) else {}
    with pytest.raises(ArgumentError, match=name):
        cls(**given | {name: value})
