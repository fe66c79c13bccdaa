"""What `ppssl corpus inspect` finds, against counts by hand."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppssl.cli.main import main
from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.text import corpus_inspection
from ppssl.text.bank import embed_corpus
from ppssl.text.corpus import TextCorpus
from ppssl.text.corpus_inspection import inspect_corpus, near_duplicates
from ppssl.text.teachers.load import load_teacher
from ppssl.utils.errors import UserError
from ppssl.utils.plots.descriptions import description_panel


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine synthetic birds."""
    folder = tmp_path_factory.mktemp("birds")
    source = SyntheticBirds(9, num_classes=3, image_size=64, seed=0, split="test")
    for i in range(9):
        source.load(i).save(folder / f"{i}.png")
    return folder


def _similarity(first: str, second: str) -> float:
    """Cosine of counts of 3 to 5 neighbouring characters, each word between two blanks (char_wb), by loops."""
    counts = []
    for text in (first, second):
        grams: Counter[str] = Counter()
        for word in text.lower().split():
            padded = f" {word} "
            for n in (3, 4, 5):
                grams.update(padded[k : k + n] for k in range(max(len(padded) - n + 1, 1)))
                if len(padded) <= n:
                    break
        counts.append(grams)
    a, b = counts
    norm = np.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(a[gram] * b[gram] for gram in a) / float(norm)


def test_near_duplicates_are_those_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_inspection, "_BLOCK", 7)  # several blocks
    texts = [*TextCorpus.load("synthetic-birds").titles[::4], "A RED bill", "a red bill"]
    expected = {
        (first, second): _similarity(first, second)
        for first, second in itertools.combinations(texts, 2)
    }
    found = near_duplicates(texts, threshold=0.5)
    above = {pair: value for pair, value in expected.items() if value > 0.5}
    assert len(above) > 5
    assert {(first, second) for _, first, second in found} == set(above)
    for value, first, second in found:
        assert value == pytest.approx(above[first, second], abs=1e-5)
    assert found[0] == (pytest.approx(1), "A RED bill", "a red bill")
    assert [pair[0] for pair in found] == sorted((pair[0] for pair in found), reverse=True)


def test_report_without_teacher() -> None:
    corpus = TextCorpus(["a red bill", ("a blue bill", "the bill is blue"), " a  red bill", ""])
    report = inspect_corpus(corpus, threshold=0.99)
    assert (report.descriptions, report.phrasings, report.duplicates) == (2, 3, 1)
    assert report.lengths == {
        "characters": {"min": 10, "median": 11, "p95": pytest.approx(15.5), "max": 16},
        "words": {"min": 3, "median": 3, "p95": pytest.approx(3.9), "max": 4},
    }
    assert report.too_long is None
    assert not report.picks
    assert not report.near_duplicates


def test_report_counts_the_teachers_tokens(clip_folder: Path) -> None:
    """The tiny CLIP has a token a letter, two ends and 16 positions."""
    report = inspect_corpus(TextCorpus(["abc de", "abcdefg hijklmno"]), teacher=str(clip_folder))
    assert report.lengths["tokens"]["min"] == 5 + 2
    assert report.lengths["tokens"]["max"] == 15 + 2
    assert report.too_long == 1


def test_picks_are_the_best_by_a_loop(birds: Path) -> None:
    corpus = TextCorpus.load("synthetic-birds")
    report = inspect_corpus(corpus, teacher="synthetic-clip", images=[birds], num_images=3, top=4)
    assert [Path(name).name for name, _ in report.picks] == ["0.png", "4.png", "8.png"]
    teacher = load_teacher("synthetic-clip")
    texts = embed_corpus(teacher, corpus).double()
    for name, ranking in report.picks:
        pixels = teacher.transform(Image.open(name).convert("RGB"))
        scores = texts @ teacher.embed_images(pixels[None])[0].double() / teacher.temperature
        p = torch.exp(scores - scores.max())
        p = p / p.sum()
        best = sorted(range(len(corpus)), key=lambda j: -float(p[j]))[:4]
        assert [text for text, _ in ranking] == [corpus.titles[j] for j in best]
        assert [value for _, value in ranking] == pytest.approx(p[best].tolist(), rel=1e-3)


def test_command_draws_and_writes(birds: Path, tmp_path: Path) -> None:
    picture, results = tmp_path / "new" / "picks.png", tmp_path / "picks.json"
    command = ["corpus", "inspect", "synthetic-birds", "--teacher", "synthetic-clip", "--images"]
    paths = [str(birds / "1.png"), str(birds)]
    options = ["--num-images", "2", "--out", str(picture), "--json", str(results)]
    assert main([*command, *paths, *options]) == 0
    with Image.open(picture) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 10
    content = json.loads(results.read_text())
    assert content["descriptions"] == len(TextCorpus.load("synthetic-birds"))
    assert [Path(name).name for name, _ in content["picks"]] == ["1.png", "0.png", "8.png"]


def test_panel_shows_each_speaker_and_name() -> None:
    images = [torch.zeros(3, 8, 9, dtype=torch.uint8), torch.zeros(3, 5, 5, dtype=torch.uint8)]
    said = {
        "teacher": [[("red $bill", 0.5)], [("x", 0.25)]],
        "student": [[("y", 1.0)], [("z", 0.0)]],
    }
    figure = description_panel(images, said, ["a.png", "b" * 40 + ".png"])
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts[0] == "teacher\n 50.0%  red $bill\n\nstudent\n100.0%  y"
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[0] == "a.png"
    assert titles[1].endswith("bbb.png")
    assert len(titles[1]) == 28


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("birds --out picks.png", "`images` and `out` need a `teacher`, such as `synthetic-clip`"),
        ("birds --teacher synthetic-clip --out picks.png", "give `images`"),
        ("birds --teacher synthetic-clip --images no.png", "Cannot read the image no.png"),
        (
            "birds --teacher timm/test_resnet",
            "`timm/test_resnet` embeds images only, and AIS needs",
        ),
        ("birds --threshold 1", "`threshold` must be in [0, 1), got 1.0"),
        ("no-such", "No corpus `no-such`"),
        ("class-names", "give `--classes names.txt`"),
        ("cub-attributes", "set `root` to its folder"),
        ("class-names --classes no.txt", "Cannot read the class names in no.txt"),
    ],
)
def test_bad_input_is_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", "inspect", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bird.jpg").write_text("no image")
    with pytest.raises(
        UserError, match=r"Cannot read the image .*bird\.jpg: not an image in a format"
    ):
        inspect_corpus(TextCorpus(["a", "b"]), teacher="synthetic-clip", images=[tmp_path])


def test_class_names_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Acura RL Sedan 2012\n\nAcura TL Sedan 2012\n")
    assert main(["corpus", "inspect", "cars-names", "--classes", str(names)]) == 0
    assert "cars-names" in capsys.readouterr().out
    names.write_text("x\nx\n")
    assert main(["corpus", "inspect", "class-names", "--classes", str(names)]) == 2
    assert "lists 'x' twice: give each class name once" in capsys.readouterr().err
