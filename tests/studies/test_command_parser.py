"""The help of a class is short, and names every argument with its documentation."""

import inspect

import pytest
from torch import nn

from ppssl import PPSSL, FineTune, LinearProbe
from ppssl.cli.main import main
from ppssl.studies.command_parser import CommandParser
from ppssl.utils.config import argument_names


class Kind:
    pass


KINDS = [type(f"Kind{k}", (Kind,), {"__module__": __name__}) for k in range(49)]
globals().update({kind.__name__: kind for kind in KINDS})  # a class is listed if it can be imported


def _of_kind(kind: Kind | None = None, layer: nn.Module | None = None) -> None:
    """Do nothing.

    Args:
        kind: A kind.
        layer: A layer.
    """


@pytest.mark.parametrize("cls", [PPSSL, FineTune, LinearProbe])
def test_the_help_of_a_model(cls: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "ppssl:folder/pretrain", f"--model.help=ppssl.{cls.__name__}"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert 50 < text.count("\n") <= 150
    words = " ".join(text.split())
    arguments = inspect.getdoc(cls).partition("Args:")[2]  # type: ignore[union-attr]
    for name in argument_names(cls):
        assert f"--model.{name} " in text
        if f"    {name}: " in arguments:  # else of the base class
            said = arguments.partition(f"    {name}: ")[2].split()[:2]
            assert " ".join(said) in words
    assert "layers.Linear" not in words


def test_few_known_subclasses_are_listed() -> None:
    parser = CommandParser()
    parser.add_function_arguments(_of_kind, "f")
    words = parser.format_help().split()
    assert all(any(f"Kind{k}{end}" in word for word in words for end in ",)") for k in range(49))
    assert "(type: Module | null, default: null)" in " ".join(words)
