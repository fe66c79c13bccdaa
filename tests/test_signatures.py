"""Options of classes are given by name: one in second place would be taken for another."""

import inspect
from typing import Any

import pytest

from configurable import configurable_classes
from ppssl import AIS


def test_a_teacher_is_not_taken_for_a_column() -> None:
    with pytest.raises(TypeError, match="positional"):
        AIS("birds", "synthetic-clip")  # type: ignore[misc]


@pytest.mark.parametrize("cls", configurable_classes(), ids=lambda cls: cls.__name__)
def test_only_the_first_argument_and_required_ones_have_a_place(cls: type[Any]) -> None:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]  # after self, first
    optional = [p for p in parameters if p.default is not p.empty]
    assert [p.name for p in optional if p.kind is not p.KEYWORD_ONLY] == []
