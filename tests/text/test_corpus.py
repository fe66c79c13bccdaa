import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ppssl.text.corpus import MAX_DESCRIPTIONS, TEMPLATES, TextCorpus, packaged_corpora
from ppssl.text.corpus_generation import generate_corpus
from ppssl.text.corpus_inspection import inspect_corpus
from ppssl.utils.errors import ArgumentError, UserError

LINES = ["a red bill", "", "  a  red   bill ", "two wing bars", "a forked tail"]
KEPT = [("a red bill",), ("two wing bars",), ("a forked tail",)]


def _write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_empty_lines_and_duplicates_are_left_out() -> None:
    corpus = TextCorpus(LINES)
    assert list(corpus) == KEPT
    assert corpus.titles == [texts[0] for texts in KEPT]


def test_txt_csv_and_jsonl_give_the_same(tmp_path: Path) -> None:
    txt = _write(tmp_path / "c.txt", "\r\n".join(LINES))
    with_bom = _write(tmp_path / "bom.txt", "\n".join(LINES), "utf-8-sig")
    rows = "\n".join(f'x{i},"{line}"' for i, line in enumerate(LINES))
    csv = _write(tmp_path / "c.csv", f"class,description\n{rows}\n")
    objects = "\n\n".join(json.dumps({"class": i, "text": t}) for i, t in enumerate(LINES))
    jsonl = _write(tmp_path / "c.jsonl", objects)
    with pytest.warns(UserWarning, match="1 of 5 descriptions are empty"):
        corpora = [TextCorpus.load(name) for name in (txt, with_bom, csv, jsonl)]
    assert all(list(corpus) == KEPT for corpus in corpora)
    assert len({corpus.fingerprint() for corpus in corpora}) == 1
    assert TextCorpus(reversed(LINES)).fingerprint() != corpora[0].fingerprint()


def test_a_quoted_cell_may_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    csv = _write(tmp_path / "c.csv", 'note,class\n"red, white\nand blue",a\nplain,b\n')
    assert TextCorpus.load(csv, "note").titles == ["red, white and blue", "plain"]


def test_class_names_through_templates() -> None:
    corpus = TextCorpus.load("class-names", classes=["Red_Tail", "blue-jay"])
    assert next(iter(corpus)) == tuple(t.replace("{}", "Red Tail") for t in TEMPLATES)
    assert [phrasings[1] for phrasings in corpus] == [
        "a close-up photo of a Red Tail.",
        "a close-up photo of a blue jay.",
    ]
    with pytest.raises(ValueError, match=r"must contain \{\}"):
        TextCorpus.from_classes(["a", "b"], ["no place"])


def test_numbers_of_classes_are_left_out() -> None:
    names = ["001.Black_footed_Albatross", "2. Kite", "1.5 litre", "737-200", "3."]
    assert [phrasings[0] for phrasings in TextCorpus.load("class-names", classes=names)] == [
        f"a photo of a {name}."
        for name in ("Black footed Albatross", "Kite", "1.5 litre", "737 200", "3.")
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_ends_at_a_line_break_alone(tmp_path: Path, mark: str) -> None:
    texts = [f"a red{mark}bill", "a tail"]
    objects = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    files = {"c.txt": "\r".join(texts), "c.jsonl": objects, "c.csv": "text\n" + "\n".join(texts)}
    for name, content in files.items():
        assert TextCorpus.load(_write(tmp_path / name, content)).titles == ["a red bill", "a tail"]


def test_packaged_corpora_load() -> None:
    for name in packaged_corpora():
        assert len(TextCorpus.load(name)) >= 50


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        (
            "a.txt",
            "only one\n\n",
            None,
            "2 to 50,000 different descriptions, .*a.txt has 1: add descriptions",
        ),
        ("a.txt", "x\ny", "text", "has no columns"),
        (
            "a.csv",
            "class,note\na,b\n",
            None,
            "no description column: set `corpus_column` to one of class, note",
        ),
        ("a.csv", "class,note\na,b\n", "notes", "no column `notes`: set .* class, note"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', None, "line 2, is not JSON"),
        ("a.jsonl", '{"text": "a"}\n["b"]', None, "line 2, is not a JSON object"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": 3}',
            None,
            "line 2: a description must be text, got 3",
        ),
        ("a.pdf", "x", None, "must be a .txt, .csv, .tsv or .jsonl file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, column: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextCorpus.load(_write(tmp_path / name, content), column)


def test_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = _write(tmp_path / "c.txt", "plain\ncafé\n", "latin-1")
    with pytest.raises(UserError, match="line 2, is not UTF-8"):
        TextCorpus.load(path)


def test_missing_corpus() -> None:
    with pytest.raises(UserError, match="must be a file or one of class-names"):
        TextCorpus.load("no-such")
    with pytest.raises(UserError, match="has 0: add descriptions"):
        TextCorpus.load("class-names")


@pytest.mark.parametrize(
    "call",
    [
        TextCorpus,
        TextCorpus.from_classes,
        lambda text: generate_corpus("no/model", text, "no.jsonl"),
        lambda text: inspect_corpus(TextCorpus(["a", "b"]), teacher="no/model", images=text),
    ],
)
def test_a_text_is_no_list_of_its_letters(call: Callable[[str], object]) -> None:
    with pytest.raises(ArgumentError, match="must be a list, got the text 'cars'"):
        call("cars")


def test_too_many() -> None:
    texts = [str(i) for i in range(MAX_DESCRIPTIONS + 1)]
    with pytest.raises(UserError, match="has 50,001: use a part"):
        TextCorpus(texts)
    assert len(TextCorpus(texts[1:])) == MAX_DESCRIPTIONS


@pytest.mark.parametrize("name", ["birds", "class-names", "cub-attributes"])
def test_a_corpus_without_columns_refuses_one(name: str) -> None:
    with pytest.raises(UserError, match=f"`{name}` has no columns: leave out `corpus_column`"):
        TextCorpus.load(name, "foo", classes=["a", "b"])
