"""Arguments that several commands share."""

import pytest

from ppssl import UserError
from ppssl.cli.arguments import split_overrides


def test_options_of_a_run_are_told_from_those_of_the_command() -> None:
    argv = [
        "study.yaml",
        "--data.root",
        "a b",
        "--out=x",
        "--model.lr=-1",
        "--trainer.max_steps",
        "-1",
    ]
    overrides, rest = split_overrides(argv)
    assert overrides == ["--data.root=a b", "--model.lr=-1", "--trainer.max_steps=-1"]
    assert rest == ["study.yaml", "--out=x"]


def test_names_that_only_begin_like_a_section_stay() -> None:
    argv = ["--data_format", "x", "--model", "m.yaml", "--seed_everything", "3"]
    assert split_overrides(argv) == (
        ["--model=m.yaml"],
        ["--data_format", "x", "--seed_everything", "3"],
    )
    overrides, rest = split_overrides(argv, "seed_everything")
    assert overrides == ["--model=m.yaml", "--seed_everything=3"]
    assert rest == ["--data_format", "x"]


@pytest.mark.parametrize("argv", [["--data.root"], ["--data.root", "--out=x"]])
def test_an_option_without_a_value_is_refused(argv: list[str]) -> None:
    with pytest.raises(UserError, match=r"`--data.root` needs a value"):
        split_overrides(argv)
