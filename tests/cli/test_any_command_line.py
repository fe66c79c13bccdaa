"""Any command line that is wrong somewhere: one line, exit code 2, nothing written, nothing else."""

import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from faults.outcome import Row, World, run
from output_options import FIT

LONG = ("fit", "validate", "test", "predict")
SHORT = (
    "ablate nowhere.yaml --out=results --jobs 2 --work=work",
    "corpus generate --model=nowhere --classes=nowhere.txt --out=c.jsonl",
    "corpus inspect nowhere.txt --column text --json=j.json",
    "duplicates nowhere.ckpt --out=d.html --device cpu",
    "embed nowhere.ckpt --out=e.parquet --seed 3",
    "evaluate nowhere.ckpt --json=j.json --label-fraction 1 0.5 --seed 3",
    "explain nowhere.ckpt nowhere.jpg --out=maps --image-size 32 --class wren",
    "export nowhere.ckpt --to timm --out=exported",
    "neighbours nowhere.jpg --embeddings nowhere.parquet --checkpoint nowhere.ckpt --k 3",
    "report nowhere nowhere.ckpt --out=r.html --seed 3",
)
"""Command lines whose inputs do not exist, so that none of them begins to work."""
ODD = ("", "-1", "0", "nan", "1e400", "null", "{", "[1", "[[[[", "{a: 1}", "a: b: c", "&a [*a]", "!!python/name:os",
       "@", "%s", "=", "-", "'", '"', "é", "🐦", "a b", "\n", "\t", "ppssl:", "True", "1.5", "-h=", "--=3",
       "x" * 300)  # fmt: skip
TEXT = st.sampled_from(ODD) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0/~$."), max_size=6
)


@st.composite
def wrong(draw: DrawFn, line: list[str]) -> list[str]:
    """A command line with one to three faults: words left out, repeated, swapped, cut, or of other text."""
    for _ in range(draw(st.integers(1, 3))):
        k = draw(st.integers(0, len(line)))
        place, rest = line[:k], line[k + 1 :]
        word = line[k] if k < len(line) else ""
        match draw(st.integers(0, 5)):
            case 0:
                line = [*place, *rest]
            case 1:
                line = [*place, *([word] * 2), *rest]
            case 2:
                line = [*place, *rest, word]
            case 3:
                line = [*place, word[: draw(st.integers(0, len(word)))], *rest]
            case 4:
                line = [*place, f"{word.partition('=')[0]}={draw(TEXT)}", *rest]
            case _:
                line = [*line[:k], draw(TEXT), *line[k:]]
    return line


def _check(line: list[str], here: Path) -> None:
    row = Row("any", shlex.join(line).replace("$", ""), "either")
    seen = run(row, World(here / "none", {}), here)
    assert seen.outcome != "fault", seen.text


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), line=st.sampled_from(SHORT))
def test_of_commands(data: st.DataObject, line: str, tmp_path: Path) -> None:
    command, *arguments = line.split()
    _check([command, *data.draw(wrong(arguments))], tmp_path)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), command=st.sampled_from(LONG))
def test_of_training(data: st.DataObject, command: str, tmp_path: Path) -> None:
    """Options of the recipe, which has no images."""
    _check([command, *data.draw(wrong(FIT))], tmp_path)
